//! The way in from the broker, for lapin's frames and for ours.
//!
//! Messages, confirms and what came back are read here, on the thread that reads, and told to
//! whoever listens to their channel; lapin never sees them. To lapin such a channel has asked for no
//! confirms and its consumers get nothing; everything else that is said on it, its end above all,
//! goes on to lapin.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, BytesMut};

use super::frame;
use super::progress::{Piece, Progress};
use super::said::{self, Confirm, Deliver, Method, Return};
use crate::error::Error;
use crate::message::{Incoming, Properties};

/// A body that is said to be larger grows as it comes.
const ROOM: u64 = 1024 * 1024;

/// What the broker says on a channel.
#[derive(Debug)]
pub(crate) enum Word {
    /// What becomes of publishes (`basic.ack`, `basic.nack`).
    Confirmed(Confirm),
    Delivered(Box<Delivery>),
    /// The answer to who asked for a message; none when the queue is empty (`basic.get-ok`,
    /// `basic.get-empty`).
    Got(Option<Box<Delivery>>),
    Returned(Box<Returned>),
    /// It has closed the channel.
    Closed(Error),
}

/// A delivery and the tag that settles it, on the channel it came from and no other.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) message: Incoming,
}

/// A mandatory message that no queue took (`basic.return`).
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) text: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
}

/// Who hears what is said on a channel: on the thread that reads, and before lapin does.
pub(crate) trait Listener: Send + Sync {
    fn hear(&self, word: Word);
}

/// The listeners of one connection. Everybody has the same ones.
#[derive(Clone, Default)]
pub(super) struct Inbox {
    listeners: Arc<Mutex<BTreeMap<u16, Arc<dyn Listener>>>>,
}

/// A channel that is listened to until this is dropped.
pub(super) struct Listening {
    inbox: Inbox,
    channel: u16,
    listener: Arc<dyn Listener>,
}

impl Inbox {
    /// Listens to a channel: one that is open, and where nothing has been published or consumed yet.
    pub(super) fn listen(&self, channel: u16, listener: Arc<dyn Listener>) -> Listening {
        let before = self.listeners().insert(channel, Arc::clone(&listener));
        // Without the lock: its end may wake somebody up.
        drop(before);
        Listening {
            inbox: self.clone(),
            channel,
            listener,
        }
    }

    fn of(&self, channel: u16) -> Option<Arc<dyn Listener>> {
        self.listeners().get(&channel).cloned()
    }

    fn is_listened_to(&self, channel: u16) -> bool {
        self.listeners().contains_key(&channel)
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<dyn Listener>>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.inbox.listeners();
        let ours = |found: &Arc<dyn Listener>| Arc::ptr_eq(found, &self.listener);
        // Not one of a later channel of the same number.
        if listeners.get(&self.channel).is_some_and(ours) {
            listeners.remove(&self.channel);
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// Where everything that is read is told apart.
pub(super) struct Passage {
    inbox: Inbox,
    progress: Progress,
    /// Whose the frame is that has come in part.
    whose: Whose,
    /// Its payload, where it is to be looked at as a whole.
    payload: Vec<u8>,
    /// Messages that have begun to come, by their channel.
    coming: BTreeMap<u16, Coming>,
    theirs: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Lapins,
    Ours,
    /// That is known when all of it is there.
    Open,
}

/// A message whose header or body is yet to come.
struct Coming {
    what: What,
    properties: Properties,
    left: u64,
    body: BytesMut,
}

impl Coming {
    /// The body of a message that came back is nobody's any more.
    fn is_kept(&self) -> bool {
        !matches!(self.what, What::Return(_))
    }
}

enum What {
    Delivery(Deliver),
    Answer(Deliver),
    Return(Return),
}

impl Passage {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self {
            inbox,
            progress: Progress::default(),
            whose: Whose::Lapins,
            payload: Vec::new(),
            coming: BTreeMap::new(),
            theirs: BytesMut::new(),
        }
    }

    /// What is lapin's of that which has passed.
    pub(super) fn theirs(&mut self) -> &mut BytesMut {
        &mut self.theirs
    }

    /// Tells lapin that the broker lives, unless it is in the middle of a frame: it may have had
    /// nothing for long because all that came was ours.
    pub(super) fn heartbeat(&mut self) {
        if self.progress.is_whole() || self.whose != Whose::Lapins {
            frame::put_heartbeat(&mut self.theirs);
        }
    }

    /// These bytes were read.
    ///
    /// # Errors
    /// They are not in frames.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(piece) = self.progress.next(&mut bytes) {
            if piece.end.is_some_and(|end| end != frame::END) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame does not end as it should",
                ));
            }
            if piece.is_first {
                self.whose = self.whose_is(&piece);
            }
            match self.whose {
                Whose::Lapins => pass_on(&mut self.theirs, &piece),
                Whose::Ours if piece.kind == frame::BODY => self.body(&piece),
                Whose::Ours | Whose::Open => self.gather(&piece),
            }
        }
        Ok(())
    }

    fn whose_is(&self, piece: &Piece<'_>) -> Whose {
        match piece.kind {
            frame::METHOD if self.inbox.is_listened_to(piece.channel) => Whose::Open,
            frame::HEADER | frame::BODY if self.coming.contains_key(&piece.channel) => Whose::Ours,
            _ => Whose::Lapins,
        }
    }

    fn gather(&mut self, piece: &Piece<'_>) {
        if piece.end.is_some() && piece.is_first {
            return self.frame(piece, piece.bytes);
        }
        self.payload.extend_from_slice(piece.bytes);
        if piece.end.is_some() {
            let mut payload = std::mem::take(&mut self.payload);
            self.frame(piece, &payload);
            payload.clear();
            self.payload = payload;
        }
    }

    fn frame(&mut self, last: &Piece<'_>, payload: &[u8]) {
        if last.kind == frame::HEADER {
            return self.header(last.channel, payload);
        }
        let method = said::method(payload);
        let is_lapins = matches!(method, None | Some(Method::Close(_)));
        if is_lapins {
            let whole = Piece {
                bytes: payload,
                is_first: true,
                ..*last
            };
            pass_on(&mut self.theirs, &whole);
        }
        if let Some(method) = method {
            self.method(last.channel, method);
        }
    }

    fn method(&mut self, channel: u16, method: Method) {
        let what = match method {
            Method::Confirm(confirm) => return self.tell(channel, Word::Confirmed(confirm)),
            Method::Close(reason) => {
                self.coming.remove(&channel);
                return self.tell(channel, Word::Closed(reason));
            }
            Method::GetEmpty => return self.tell(channel, Word::Got(None)),
            Method::Deliver(deliver) => What::Delivery(deliver),
            Method::GetOk(deliver) => What::Answer(deliver),
            Method::Return(returned) => What::Return(returned),
        };
        let coming = Coming {
            what,
            properties: Properties::default(),
            left: 0,
            body: BytesMut::new(),
        };
        self.coming.insert(channel, coming);
    }

    fn header(&mut self, channel: u16, payload: &[u8]) {
        let (Some(coming), Some(header)) = (self.coming.get_mut(&channel), said::header(payload))
        else {
            return;
        };
        coming.properties = header.properties.unwrap_or_else(|| {
            tracing::warn!(
                channel,
                "a message whose properties cannot be read: it has none"
            );
            Properties::default()
        });
        coming.left = header.size;
        if let Ok(room) = usize::try_from(header.size.min(ROOM))
            && coming.is_kept()
        {
            coming.body.reserve(room);
        }
        if header.size == 0 {
            self.come(channel);
        }
    }

    fn body(&mut self, piece: &Piece<'_>) {
        let Some(coming) = self.coming.get_mut(&piece.channel) else {
            return;
        };
        if coming.is_kept() {
            coming.body.put_slice(piece.bytes);
        }
        coming.left = coming.left.saturating_sub(piece.bytes.len() as u64);
        if coming.left == 0 && piece.end.is_some() {
            self.come(piece.channel);
        }
    }

    /// All of a message is there.
    fn come(&mut self, channel: u16) {
        let Some(Coming {
            what,
            properties,
            body,
            ..
        }) = self.coming.remove(&channel)
        else {
            return;
        };
        let delivery = |deliver: Deliver, properties, body: BytesMut| {
            let Deliver {
                tag,
                redelivered,
                exchange,
                routing_key,
            } = deliver;
            let message = Incoming {
                exchange,
                routing_key,
                redelivered,
                properties,
                body: body.freeze(),
            };
            Box::new(Delivery { tag, message })
        };
        let word = match what {
            What::Delivery(deliver) => Word::Delivered(delivery(deliver, properties, body)),
            What::Answer(deliver) => Word::Got(Some(delivery(deliver, properties, body))),
            What::Return(Return { text, routing_key }) => Word::Returned(Box::new(Returned {
                text,
                routing_key,
                properties,
            })),
        };
        self.tell(channel, word);
    }

    fn tell(&self, channel: u16, word: Word) {
        // Without the lock: it may wake somebody up.
        let listener = self.inbox.of(channel);
        match listener {
            Some(listener) => listener.hear(word),
            None => tracing::debug!(channel, "something is said that nobody listens to any more"),
        }
    }
}

fn pass_on(theirs: &mut BytesMut, piece: &Piece<'_>) {
    if piece.is_first {
        theirs.put_u8(piece.kind);
        theirs.put_u16(piece.channel);
        theirs.put_u32(piece.size);
    }
    theirs.put_slice(piece.bytes);
    if let Some(end) = piece.end {
        theirs.put_u8(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
    use amq_protocol::protocol::{AMQPClass, basic, channel};
    use lapin::BasicProperties;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Listener for Heard {
        fn hear(&self, word: Word) {
            let said = match word {
                Word::Confirmed(Confirm {
                    tag,
                    multiple,
                    is_stored,
                }) => format!("{tag} {multiple} {is_stored}"),
                Word::Delivered(delivery) => {
                    let message = delivery.message;
                    assert!(message.body.iter().all(|byte| *byte == frame::END));
                    let id = message.properties.message_id;
                    format!("{} {id:?} {} bytes", delivery.tag, message.body.len())
                }
                Word::Returned(message) => {
                    let id = message.properties.message_id;
                    format!("{} {} {id:?}", message.text, message.routing_key)
                }
                Word::Got(None) => "nothing".into(),
                Word::Got(Some(delivery)) => format!("got {}", delivery.tag),
                Word::Closed(error) => error.to_string(),
            };
            self.0.lock().unwrap().push(said);
        }
    }

    impl Heard {
        fn all(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn encode(frames: &[AMQPFrame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            let written = gen_frame(frame)(Vec::new().into());
            bytes.extend(written.unwrap().into_inner().0);
        }
        bytes
    }

    fn method(channel: u16, method: basic::AMQPMethod) -> AMQPFrame {
        AMQPFrame::Method(channel, AMQPClass::Basic(method))
    }

    fn ack(channel: u16, delivery_tag: u64, multiple: bool) -> AMQPFrame {
        let ack = basic::Ack {
            delivery_tag,
            multiple,
        };
        method(channel, basic::AMQPMethod::Ack(ack))
    }

    fn nack(channel: u16) -> AMQPFrame {
        let nack = basic::Nack {
            delivery_tag: 5,
            multiple: true,
            requeue: false,
        };
        method(channel, basic::AMQPMethod::Nack(nack))
    }

    fn deliver(channel: u16, delivery_tag: u64) -> AMQPFrame {
        let deliver = basic::Deliver {
            consumer_tag: "consumer".into(),
            delivery_tag,
            redelivered: true,
            exchange: "".into(),
            routing_key: "jobs".into(),
        };
        method(channel, basic::AMQPMethod::Deliver(deliver))
    }

    fn got(channel: u16, delivery_tag: u64) -> AMQPFrame {
        let got = basic::GetOk {
            delivery_tag,
            redelivered: true,
            exchange: "".into(),
            routing_key: "jobs".into(),
            message_count: 7,
        };
        method(channel, basic::AMQPMethod::GetOk(got))
    }

    fn empty(channel: u16) -> AMQPFrame {
        method(channel, basic::AMQPMethod::GetEmpty(basic::GetEmpty {}))
    }

    fn returned(channel: u16) -> AMQPFrame {
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "nowhere".into(),
        };
        method(channel, basic::AMQPMethod::Return(returned))
    }

    fn close(channel: u16) -> AMQPFrame {
        let close = channel::Close {
            reply_code: 404,
            reply_text: "NOT_FOUND - no exchange".into(),
            class_id: 60,
            method_id: 40,
        };
        AMQPFrame::Method(
            channel,
            AMQPClass::Channel(channel::AMQPMethod::Close(close)),
        )
    }

    fn header(channel: u16, body_size: u64) -> AMQPFrame {
        let properties = BasicProperties::default()
            .with_content_type("x/y".into())
            .with_message_id("the id".into());
        let header = AMQPContentHeader {
            class_id: 60,
            body_size,
            properties,
        };
        AMQPFrame::Header(channel, header)
    }

    fn body(channel: u16, size: usize) -> AMQPFrame {
        AMQPFrame::Body(channel, vec![frame::END; size])
    }

    /// What is heard on channel 7 of these frames, and what lapin gets.
    fn told_apart(bytes: &[u8], cut: usize) -> (Vec<String>, Vec<u8>) {
        let (inbox, heard) = (Inbox::default(), Arc::new(Heard::default()));
        let _listening = inbox.listen(7, Arc::clone(&heard) as _);
        let mut passage = Passage::new(inbox.clone());
        for part in bytes.chunks(cut) {
            passage.pass(part).unwrap();
        }
        assert!(passage.payload.is_empty() && passage.coming.is_empty());
        (heard.all(), passage.theirs.to_vec())
    }

    #[test]
    fn ours_and_lapins_are_told_apart_however_they_are_cut() {
        let said = [
            (ack(7, 1, false), false),
            (ack(8, 99, true), true),
            (AMQPFrame::Heartbeat, true),
            (returned(7), false),
            (deliver(8, 100), true),
            (header(7, 20_001), false),
            (body(7, 20_000), false),
            (header(8, 3), true),
            (body(8, 3), true),
            (body(7, 1), false),
            (nack(7), false),
            (deliver(7, 3), false),
            (header(7, 0), false),
            (deliver(7, 4), false),
            (header(7, 2), false),
            (body(7, 2), false),
            (got(7, 5), false),
            (header(7, 0), false),
            (empty(7), false),
            (empty(8), true),
            (close(7), true),
        ];
        let theirs: Vec<_> = said.iter().filter(|(_, theirs)| *theirs).cloned().collect();
        let [all, theirs] = [said.to_vec(), theirs].map(|frames| {
            let frames: Vec<_> = frames.into_iter().map(|(frame, _)| frame).collect();
            encode(&frames)
        });
        for cut in [1, 2, 7, 8, 100, 1_000_000] {
            let (heard, left) = told_apart(&all, cut);
            assert_eq!(
                heard,
                [
                    "1 false true",
                    "NO_ROUTE nowhere Some(\"the id\")",
                    "5 true false",
                    "3 Some(\"the id\") 0 bytes",
                    "4 Some(\"the id\") 2 bytes",
                    "got 5",
                    "nothing",
                    "the broker answered 404: NOT_FOUND - no exchange",
                ],
                "cut into {cut}"
            );
            assert_eq!(left, theirs, "cut into {cut}");
        }
    }

    #[test]
    fn who_listens_no_more_hears_nothing() {
        let (inbox, heard) = (Inbox::default(), Arc::new(Heard::default()));
        let listening = inbox.listen(7, Arc::clone(&heard) as _);
        let mut passage = Passage::new(inbox.clone());
        passage
            .pass(&encode(&[ack(7, 1, false), returned(7)]))
            .unwrap();
        assert_eq!(heard.all().len(), 1);
        let header = encode(&[header(7, 0)]);
        passage.pass(&header[..10]).unwrap();
        drop(listening);
        passage.pass(&header[10..]).unwrap();
        assert!(heard.all().is_empty());
        let other = encode(&[ack(7, 2, false), close(7)]);
        passage.pass(&other).unwrap();
        assert_eq!(passage.theirs.to_vec(), other);
        // Another channel of the same number, whose listener an old one does not take away.
        let old = inbox.listen(7, Arc::new(Heard::default()));
        let _listening = inbox.listen(7, Arc::clone(&heard) as _);
        drop(old);
        passage.pass(&encode(&[ack(7, 1, true)])).unwrap();
        assert_eq!(heard.all(), ["1 true true"]);
    }

    #[test]
    fn a_sign_of_life_is_between_two_frames_of_lapins() {
        let inbox = Inbox::default();
        let _listening = inbox.listen(7, Arc::new(Heard::default()));
        let mut passage = Passage::new(inbox);
        let heartbeat = encode(&[AMQPFrame::Heartbeat]);
        passage.heartbeat();
        assert_eq!(passage.theirs.split(), heartbeat);
        let (theirs, ours) = (encode(&[body(8, 9)]), encode(&[deliver(7, 1)]));
        passage.pass(&theirs[..9]).unwrap();
        passage.heartbeat();
        passage.pass(&theirs[9..]).unwrap();
        assert_eq!(passage.theirs.split(), theirs);
        passage.pass(&ours[..9]).unwrap();
        passage.heartbeat();
        assert_eq!(passage.theirs.split(), heartbeat);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut passage = Passage::new(Inbox::default());
        let mut bytes = encode(&[body(8, 9)]);
        *bytes.last_mut().unwrap() = b'x';
        let error = passage.pass(&bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn properties_that_are_none_cost_nobody_else_anything() {
        let mut broken = encode(&[deliver(7, 1), header(7, 1), body(7, 1)]);
        let at = broken
            .windows(4)
            .position(|bytes| bytes == b"\x03x/y")
            .unwrap();
        broken[at] = 200;
        let mut no_text = encode(&[deliver(7, 2), header(7, 1), body(7, 1)]);
        let at = no_text
            .windows(6)
            .position(|bytes| bytes == b"the id")
            .unwrap();
        no_text[at] = 0xFF;
        let (heard, left) = told_apart(&[broken, no_text].concat(), 1_000);
        let said = ["1 None 1 bytes", "2 Some(\"?he id\") 1 bytes"];
        assert_eq!(heard, said);
        assert!(left.is_empty());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            payloads in prop::collection::vec(
                (1_u8..4, 7_u16..9, prop::collection::vec(any::<u8>(), 0..60)), 0..20,
            ),
        ) {
            let (inbox, heard) = (Inbox::default(), Arc::new(Heard::default()));
            let _listening = inbox.listen(7, Arc::clone(&heard) as _);
            let mut passage = Passage::new(inbox.clone());
            for (kind, channel, payload) in payloads {
                let mut frame = vec![kind];
                frame.extend(channel.to_be_bytes());
                frame.extend((payload.len() as u32).to_be_bytes());
                frame.extend(payload);
                frame.push(frame::END);
                passage.pass(&frame).unwrap();
            }
        }
    }
}
