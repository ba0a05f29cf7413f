//! What the broker says of messages that Lepus wrote itself, read on its way to lapin.
//!
//! lapin knows nothing of these messages: to it their channels ask for no confirms, so it passes
//! over those that come. Here they are heard as they are read, in the broker's order: what came back
//! (`basic.return`) before its confirm.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::protocol::{AMQPClass, basic, channel, parse_class};

use super::convert;
use super::frame;
use super::progress::{Piece, Progress};
use crate::error::Error;
use crate::message::Properties;

/// Class, weight and body size, before the properties of a content header.
const BEFORE_PROPERTIES: usize = 12;

/// What the broker says on a channel.
#[derive(Debug)]
pub(crate) enum Word {
    /// What becomes of the publish of this number, and of all before it where it is of several; of
    /// all that there are where the number is 0 (`basic.ack`, `basic.nack`).
    Confirmed {
        tag: u64,
        multiple: bool,
        is_stored: bool,
    },
    Returned(Box<Returned>),
    /// It has closed the channel.
    Closed(Error),
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
    listeners: Arc<Mutex<HashMap<u16, Arc<dyn Listener>>>>,
}

/// A channel that is listened to until this is dropped.
pub(super) struct Listening {
    inbox: Inbox,
    channel: u16,
    listener: Arc<dyn Listener>,
}

impl Inbox {
    /// Listens to a channel: one that is open, and where nothing has been published yet.
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

    fn listeners(&self) -> MutexGuard<'_, HashMap<u16, Arc<dyn Listener>>> {
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

/// The way in: everything that is read passes here.
pub(super) struct Passage {
    inbox: Inbox,
    progress: Progress,
    /// Of the frame that has come in part.
    payload: Vec<u8>,
    /// Messages that come back, by their channel, whose properties are yet to come.
    returning: HashMap<u16, basic::Return>,
}

impl Passage {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self {
            inbox,
            progress: Progress::default(),
            payload: Vec::new(),
            returning: HashMap::new(),
        }
    }

    /// These bytes were read. What lapin would not understand either is left to it.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.progress.next(&mut bytes) {
            if !matches!(piece.kind, frame::METHOD | frame::HEADER) {
                continue;
            }
            match self.inbox.of(piece.channel) {
                Some(listener) => self.take(&piece, &*listener),
                // Nobody listens any more who did when it began.
                None => self.forget(piece.channel),
            }
        }
    }

    fn take(&mut self, piece: &Piece<'_>, listener: &dyn Listener) {
        if !piece.is_last || !self.payload.is_empty() {
            self.payload.extend_from_slice(piece.bytes);
        }
        if !piece.is_last {
            return;
        }
        let payload = std::mem::take(&mut self.payload);
        let whole = if payload.is_empty() {
            piece.bytes
        } else {
            &payload
        };
        let word = if piece.kind == frame::METHOD {
            self.method(piece.channel, whole)
        } else {
            self.header(piece.channel, whole)
        };
        if let Some(word) = word {
            listener.hear(word);
        }
    }

    fn forget(&mut self, channel: u16) {
        self.payload.clear();
        self.returning.remove(&channel);
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Option<Word> {
        let confirmed = |tag, multiple, is_stored| Word::Confirmed {
            tag,
            multiple,
            is_stored,
        };
        let (_, class) = parse_class(payload).ok()?;
        match class {
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                Some(confirmed(ack.delivery_tag, ack.multiple, true))
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                Some(confirmed(nack.delivery_tag, nack.multiple, false))
            }
            AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => {
                self.returning.insert(channel, returned);
                None
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                let text = close.reply_text.to_string();
                Some(Word::Closed(convert::refusal(close.reply_code, text)))
            }
            _ => None,
        }
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> Option<Word> {
        let returned = self.returning.remove(&channel)?;
        let properties = payload.get(BEFORE_PROPERTIES..)?;
        let (_, properties) = basic::parse_properties(properties).ok()?;
        Some(Word::Returned(Box::new(Returned {
            text: returned.reply_text.to_string(),
            routing_key: returned.routing_key.to_string(),
            properties: convert::from_properties(&properties),
        })))
    }
}

impl Returned {
    pub(super) fn from_lapin(message: lapin::message::BasicReturnMessage) -> Self {
        Self {
            text: message.reply_text.to_string(),
            routing_key: message.delivery.routing_key.to_string(),
            properties: convert::from_properties(&message.delivery.properties),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
    use lapin::BasicProperties;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Listener for Heard {
        fn hear(&self, word: Word) {
            let said = match word {
                Word::Confirmed {
                    tag,
                    multiple,
                    is_stored,
                } => format!("{tag} {multiple} {is_stored}"),
                Word::Returned(message) => {
                    let Returned {
                        text,
                        routing_key,
                        properties,
                    } = *message;
                    format!("{text} {routing_key} {:?}", properties.message_id)
                }
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

    fn returned(channel: u16) -> AMQPFrame {
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "nowhere".into(),
        };
        method(channel, basic::AMQPMethod::Return(returned))
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

    fn everything() -> Vec<u8> {
        encode(&[
            ack(7, 1, false),
            ack(8, 99, true),
            AMQPFrame::Heartbeat,
            returned(7),
            ack(8, 100, false),
            header(7, 20_000),
            AMQPFrame::Body(7, vec![0xCE; 20_000]),
            method(
                7,
                basic::AMQPMethod::Nack(basic::Nack {
                    delivery_tag: 5,
                    multiple: true,
                    requeue: false,
                }),
            ),
            AMQPFrame::Method(
                7,
                AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
                    reply_code: 404,
                    reply_text: "NOT_FOUND - no exchange".into(),
                    class_id: 60,
                    method_id: 40,
                })),
            ),
        ])
    }

    const SAID: [&str; 4] = [
        "1 false true",
        "NO_ROUTE nowhere Some(\"the id\")",
        "5 true false",
        "the broker answered 404: NOT_FOUND - no exchange",
    ];

    #[test]
    fn what_is_said_on_a_channel_is_heard_however_it_is_cut() {
        for cut in [1, 2, 7, 8, 100, 1_000_000] {
            let (inbox, heard) = (Inbox::default(), Arc::new(Heard::default()));
            let _listening = inbox.listen(7, Arc::clone(&heard) as _);
            let mut passage = Passage::new(inbox.clone());
            for part in everything().chunks(cut) {
                passage.pass(part);
            }
            assert_eq!(heard.all(), SAID, "cut into {cut}");
            assert!(passage.payload.is_empty() && passage.returning.is_empty());
        }
    }

    #[test]
    fn who_listens_no_more_hears_nothing() {
        let (inbox, heard) = (Inbox::default(), Arc::new(Heard::default()));
        let listening = inbox.listen(7, Arc::clone(&heard) as _);
        let mut passage = Passage::new(inbox.clone());
        passage.pass(&encode(&[ack(7, 1, false), returned(7)]));
        assert_eq!(heard.all().len(), 1);
        let header = encode(&[header(7, 0)]);
        passage.pass(&header[..10]);
        drop(listening);
        passage.pass(&header[10..]);
        assert!(heard.all().is_empty());
        // Another channel of the same number.
        let _listening = inbox.listen(7, Arc::clone(&heard) as _);
        passage.pass(&encode(&[ack(7, 1, true)]));
        assert_eq!(heard.all(), ["1 true true"]);
    }
}
