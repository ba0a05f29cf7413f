//! The reader of an inbox: it takes the items one by one, and tells when credit is due.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::inbox::{Inbox, InboxNext};
use crate::wire::batch::Items;

/// Reads the items of an [`Inbox`] in their order. Dropping it drops what was not read.
#[derive(Debug)]
pub(crate) struct Reader<E> {
    inbox: Arc<Inbox<E>>,
    /// The message whose items are read.
    current: Items,
    window: u32,
    /// The items that were read since the inbox was told.
    unconsumed: u64,
    /// The items that were read in all.
    items: u64,
}

/// The next part of a stream.
#[derive(Debug)]
pub(crate) enum StreamPart<E> {
    Item(Bytes),
    End(E),
    /// The items of a message do not decode.
    Malformed,
}

impl<E> Reader<E> {
    pub(crate) fn new(inbox: Arc<Inbox<E>>, window: u32) -> Self {
        Self {
            inbox,
            current: Items::none(),
            window,
            unconsumed: 0,
            items: 0,
        }
    }

    /// The number of items that were read.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// The next part; `None` after the end. `grant` gets the new total if a credit is due.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        grant: impl FnOnce(u64),
    ) -> Poll<Option<StreamPart<E>>> {
        loop {
            match self.current.take() {
                Ok(Some(item)) => {
                    if let Some(total) = self.item_read() {
                        grant(total);
                    }
                    return Poll::Ready(Some(StreamPart::Item(item)));
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(StreamPart::Malformed)),
            }
            match ready!(self.inbox.poll_next(cx)) {
                Some(InboxNext::Items(items)) => self.current = items,
                Some(InboxNext::End(end)) => return Poll::Ready(Some(StreamPart::End(end))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Notes that an item was read. The inbox, which has a lock, is told of several at once. The result is the new
    /// total if a credit is due.
    fn item_read(&mut self) -> Option<u64> {
        self.items += 1;
        self.unconsumed += 1;
        if self.current.left() > 0 && self.unconsumed < u64::from(self.window).div_ceil(2) {
            return None;
        }
        self.inbox.consume(std::mem::take(&mut self.unconsumed))
    }
}

impl<E> Drop for Reader<E> {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::encode_items;
    use futures_util::FutureExt;
    use std::future::poll_fn;

    fn message(items: usize) -> Items {
        Items::several(encode_items(&vec![Bytes::from_static(b"1"); items])).unwrap()
    }

    /// Reads an item. Returns the credit that it was worth.
    fn read(reader: &mut Reader<()>) -> Option<u64> {
        let mut granted = None;
        let next = poll_fn(|cx| reader.poll_read(cx, |total| granted = Some(total)));
        assert!(matches!(
            next.now_or_never(),
            Some(Some(StreamPart::Item(_)))
        ));
        granted
    }

    #[test]
    fn credit_is_due_at_half_the_window() {
        let inbox = Arc::new(Inbox::new(6));
        let mut reader = Reader::new(Arc::clone(&inbox), 6);
        inbox.push(0, message(5)).unwrap();
        assert_eq!(read(&mut reader), None);
        assert_eq!(read(&mut reader), None);
        assert_eq!(read(&mut reader), Some(9));
        assert_eq!(read(&mut reader), None);
        assert_eq!(read(&mut reader), None);
        inbox.push(5, message(1)).unwrap();
        inbox.end(());
        assert_eq!(read(&mut reader), None, "nothing is granted behind the end");
        assert_eq!(reader.items(), 6);
        let end = poll_fn(|cx| reader.poll_read(cx, |_| ())).now_or_never();
        assert!(matches!(end, Some(Some(StreamPart::End(())))));
    }

    #[test]
    fn a_reader_that_is_dropped_takes_no_items() {
        let inbox = Arc::new(Inbox::<()>::new(2));
        drop(Reader::new(Arc::clone(&inbox), 2));
        inbox.push(0, message(2)).unwrap();
        let next = poll_fn(|cx| inbox.poll_next(cx)).now_or_never();
        assert!(matches!(next, Some(None)), "{next:?}");
    }

    #[test]
    fn a_message_that_does_not_decode_is_told() {
        let inbox = Arc::new(Inbox::<()>::new(2));
        let mut reader = Reader::new(Arc::clone(&inbox), 2);
        let text = Items::several(Bytes::from_static(b"\x91\xa1a")).unwrap();
        inbox.push(0, text).unwrap();
        let next = poll_fn(|cx| reader.poll_read(cx, |_| ())).now_or_never();
        assert!(
            matches!(next, Some(Some(StreamPart::Malformed))),
            "{next:?}"
        );
    }
}
