//! The loop that polls a stream and sends its items, as long as there is credit. Without credit the stream is not
//! polled: that is the back-pressure that its producer feels.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use crate::wire::batch::{MAX_ITEMS_SIZE, encode_items};
use crate::wire::envelope::StreamMessage;

/// After so many messages the task yields to others, even if more items are ready.
const MESSAGES_BEFORE_YIELD: usize = 16;
/// The bytes that an item takes in a message besides its own, at least.
const ITEM_OVERHEAD: usize = 5;

/// The way of items to their reader.
pub(crate) trait ItemSink: Send + Sync {
    /// The number of items that may be sent, once there is credit for one.
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>>;

    /// Tells the reader that the stream is open, unless it knows by a message that was sent before.
    fn open(&self) -> Result<(), SinkClosed>;

    /// Sends items, at least one and at most as many as there is credit for, as one message.
    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed>;

    /// The largest item, in bytes.
    fn max_item(&self) -> usize;

    /// Completes when nobody reads the items any more, while the stream has none ready. A sink whose producer is
    /// dropped then has no need of it.
    fn poll_closed(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Nobody reads the items any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SinkClosed;

/// The end of a stream's production.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Produced<R> {
    /// The stream has ended.
    Finished,
    /// An item ended it: an error, or an item that cannot be encoded.
    Item(R),
    /// An item is larger than allowed.
    TooLarge { size: usize, limit: usize },
    /// Nobody reads the items any more.
    Closed,
}

/// Sends the items of a stream until it ends. `encode` makes bytes of an item, or the reason for which it ends the
/// stream. Items that are ready at the same time share a message.
pub(crate) async fn produce<S: Stream, R>(
    sink: &(impl ItemSink + ?Sized),
    stream: S,
    mut encode: impl FnMut(S::Item) -> Result<Bytes, R>,
) -> Produced<R> {
    let mut stream = pin!(stream);
    let mut message = FilledMessage::default();
    poll_fn(|cx| {
        for _ in 0..MESSAGES_BEFORE_YIELD {
            let credit = match sink.poll_credit(cx) {
                Poll::Ready(Ok(credit)) => credit,
                Poll::Ready(Err(SinkClosed)) => return Poll::Ready(Produced::Closed),
                Poll::Pending => {
                    return match sink.open() {
                        Ok(()) => Poll::Pending,
                        Err(SinkClosed) => Poll::Ready(Produced::Closed),
                    };
                }
            };
            let filled = message.fill(stream.as_mut(), cx, (credit, sink.max_item()), &mut encode);
            let sent = if message.items.is_empty() {
                sink.open()
            } else {
                sink.send(&message.items)
            };
            message.sent();
            if sent == Err(SinkClosed) {
                return Poll::Ready(Produced::Closed);
            }
            match filled {
                Filled::Full => {}
                Filled::Waiting => return sink.poll_closed(cx).map(|()| Produced::Closed),
                Filled::Ended(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// The kind and the body of the message with these items.
pub(crate) fn items_message(items: &[Bytes]) -> (StreamMessage, Bytes) {
    match items {
        [item] => (StreamMessage::Item, item.clone()),
        items => (StreamMessage::Items, encode_items(items)),
    }
}

/// The next message, while it is filled.
#[derive(Default)]
struct FilledMessage {
    items: Vec<Bytes>,
    size: usize,
    /// An item that was too large for the message before.
    held: Option<Bytes>,
}

/// The reason for which a message is not filled further.
enum Filled<R> {
    Full,
    /// The stream has no item ready.
    Waiting,
    Ended(Produced<R>),
}

impl FilledMessage {
    fn fill<S: Stream, R>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        (credit, max_item): (u64, usize),
        encode: &mut impl FnMut(S::Item) -> Result<Bytes, R>,
    ) -> Filled<R> {
        let max_size = MAX_ITEMS_SIZE.min(max_item);
        if let Some(held) = self.held.take() {
            self.push(held);
        }
        while self.size < max_size && (self.items.len() as u64) < credit {
            let item = match stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) => return Filled::Ended(Produced::Finished),
                Poll::Pending => return Filled::Waiting,
            };
            match encode(item) {
                Ok(item) if item.len() > max_item => {
                    let (size, limit) = (item.len(), max_item);
                    return Filled::Ended(Produced::TooLarge { size, limit });
                }
                // With a header of its own in front of the items.
                Ok(item)
                    if !self.items.is_empty()
                        && self.size + item.len() + 2 * ITEM_OVERHEAD > max_size =>
                {
                    self.held = Some(item);
                    return Filled::Full;
                }
                Ok(item) => self.push(item),
                Err(end) => return Filled::Ended(Produced::Item(end)),
            }
        }
        Filled::Full
    }

    fn push(&mut self, item: Bytes) {
        self.size += item.len() + ITEM_OVERHEAD;
        self.items.push(item);
    }

    fn sent(&mut self) {
        self.items.clear();
        self.size = 0;
        // A stream at rest holds no memory of a burst.
        self.items.shrink_to(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::stream::SendCredit;
    use crate::sync::lock;
    use futures_util::{FutureExt, StreamExt, stream};
    use std::sync::Mutex;

    /// A sink that records its messages.
    struct Recorded {
        credit: Mutex<SendCredit>,
        messages: Mutex<Vec<Vec<Bytes>>>,
        max_item: usize,
        is_closed: bool,
    }

    impl Recorded {
        fn new(credit: u64) -> Self {
            Self {
                credit: Mutex::new(SendCredit::new(credit)),
                messages: Mutex::default(),
                max_item: 1000,
                is_closed: false,
            }
        }

        fn sizes(&self) -> Vec<usize> {
            lock(&self.messages).iter().map(Vec::len).collect()
        }
    }

    impl ItemSink for Recorded {
        fn poll_credit(&self, _: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
            match lock(&self.credit).left() {
                _ if self.is_closed => Poll::Ready(Err(SinkClosed)),
                0 => Poll::Pending,
                left => Poll::Ready(Ok(left)),
            }
        }

        fn open(&self) -> Result<(), SinkClosed> {
            let mut messages = lock(&self.messages);
            if messages.is_empty() {
                messages.push(Vec::new());
            }
            Ok(())
        }

        fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
            lock(&self.credit).send(items.len() as u64);
            lock(&self.messages).push(items.to_vec());
            Ok(())
        }

        fn max_item(&self) -> usize {
            self.max_item
        }
    }

    fn bytes(size: usize) -> Result<Bytes, &'static str> {
        Ok(vec![7; size].into())
    }

    #[test]
    fn items_that_are_ready_share_a_message_within_the_credit() {
        let sink = Recorded::new(5);
        let mut production = Box::pin(produce(&sink, stream::repeat(3), bytes));
        assert!(production.as_mut().now_or_never().is_none());
        assert_eq!(sink.sizes(), [5]);
        lock(&sink.credit).grant(7);
        assert!(production.as_mut().now_or_never().is_none());
        assert_eq!(sink.sizes(), [5, 2]);
    }

    #[test]
    fn a_message_has_no_more_bytes_than_allowed() {
        let sink = Recorded::new(100);
        let end = produce(&sink, stream::iter([400, 400, 400, 1000, 1]), bytes).now_or_never();
        assert_eq!(end, Some(Produced::Finished));
        assert_eq!(sink.sizes(), [2, 1, 1, 1]);
    }

    #[test]
    fn a_stream_opens_even_if_it_has_no_item() {
        let sink = Recorded::new(1);
        let waiting = produce(&sink, stream::pending::<usize>(), bytes);
        assert_eq!(waiting.now_or_never(), None);
        assert_eq!(sink.sizes(), [0]);
        let sink = Recorded::new(1);
        let empty = produce(&sink, stream::empty(), bytes).now_or_never();
        assert_eq!((empty, sink.sizes()), (Some(Produced::Finished), vec![0]));
    }

    #[test]
    fn an_item_ends_the_stream_behind_those_before_it() {
        let sink = Recorded::new(9);
        let items = stream::iter([1, 1, 2000, 1]);
        let end = produce(&sink, items, bytes).now_or_never();
        let too_large = Produced::TooLarge {
            size: 2000,
            limit: 1000,
        };
        assert_eq!((end, sink.sizes()), (Some(too_large), vec![2]));
        let failing = stream::iter([true, false, true]).map(|is_item| (is_item, 1));
        let encode = |(is_item, size)| if is_item { bytes(size) } else { Err("gone") };
        let sink = Recorded::new(9);
        let end = produce(&sink, failing, encode).now_or_never();
        assert_eq!((end, sink.sizes()), (Some(Produced::Item("gone")), vec![1]));
    }

    #[test]
    fn nothing_is_polled_for_nobody() {
        let sink = Recorded {
            is_closed: true,
            ..Recorded::new(1)
        };
        let polled = stream::poll_fn(|_| -> Poll<Option<usize>> { panic!("it is polled") });
        let end = produce(&sink, polled, bytes).now_or_never();
        assert_eq!(end, Some(Produced::Closed));
    }
}
