//! The items that came and were not read yet, and the end of their stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::produce::{ItemSink, SinkClosed};
use crate::policy::stream::{ReceiveWindow, StreamFault};
use crate::sync::lock;
use crate::wire::batch::Items;

/// The receiving end of a stream, filled by the I/O task or by a producer in this process. It holds at most as many
/// items as its window.
#[derive(Debug)]
pub(crate) struct Inbox<E> {
    state: Mutex<InboxState<E>>,
}

#[derive(Debug)]
struct InboxState<E> {
    items: VecDeque<Items>,
    window: ReceiveWindow,
    is_open: bool,
    /// Whether nothing more is received: the end came, or nobody reads.
    is_closed: bool,
    end: Option<E>,
    reader: Option<Waker>,
    /// A producer in this process that waits for credit.
    producer: Option<Waker>,
}

/// The next thing that a reader gets.
#[derive(Debug)]
pub(crate) enum InboxNext<E> {
    Items(Items),
    End(E),
}

impl<E> Inbox<E> {
    pub(crate) fn new(window: u32) -> Self {
        Self {
            state: Mutex::new(InboxState {
                items: VecDeque::new(),
                window: ReceiveWindow::new(window),
                is_open: false,
                is_closed: false,
                end: None,
                reader: None,
                producer: None,
            }),
        }
    }

    /// Receives a message with items, the first of which has this number.
    ///
    /// # Errors
    /// It is out of order, or there are more items than the credit allows.
    pub(crate) fn push(&self, number: u64, items: Items) -> Result<(), StreamFault> {
        self.change(|state| {
            state.window.receive(number, items.left())?;
            if !state.is_closed {
                state.items.push_back(items);
            }
            Ok(())
        })
    }

    /// Receives a message without items.
    ///
    /// # Errors
    /// It is out of order.
    pub(crate) fn check(&self, number: u64) -> Result<(), StreamFault> {
        lock(&self.state).window.check(number)
    }

    /// Notes that the stream is open. The reader is woken once.
    pub(crate) fn open(&self) {
        if !lock(&self.state).is_open {
            self.change(|_| ());
        }
    }

    /// Ends the stream, behind the items that came. An end that was set before stays.
    pub(crate) fn end(&self, end: E) {
        self.set_end(end)
            .into_iter()
            .flatten()
            .for_each(Waker::wake);
    }

    /// As [`end`](Self::end), for a caller that holds a lock: the results are to be woken without it.
    #[must_use]
    pub(crate) fn set_end(&self, end: E) -> [Option<Waker>; 2] {
        let mut state = lock(&self.state);
        if !state.is_closed {
            state.is_closed = true;
            state.end = Some(end);
        }
        [state.reader.take(), state.producer.take()]
    }

    /// Drops what was not read. Nothing more is received.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let items = std::mem::take(&mut state.items);
        let producer = state.producer.take();
        drop(state);
        drop(items);
        producer.into_iter().for_each(Waker::wake);
    }

    /// Changes the state of a stream that is open from now on, and wakes the reader.
    fn change<T>(&self, change: impl FnOnce(&mut InboxState<E>) -> T) -> T {
        let mut state = lock(&self.state);
        state.is_open = true;
        let changed = change(&mut state);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        changed
    }

    /// Whether the stream was opened, once that is decided: `false` if it ended before.
    pub(crate) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = lock(&self.state);
        if state.is_open {
            return Poll::Ready(true);
        }
        if state.is_closed {
            return Poll::Ready(false);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes the end of a stream that was not opened.
    pub(crate) fn take_end_unless(&self, is_open: bool) -> Option<E> {
        if is_open {
            return None;
        }
        lock(&self.state).end.take()
    }

    /// The next message, or the end. `None` after the end.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<InboxNext<E>>> {
        let mut state = lock(&self.state);
        if let Some(items) = state.items.pop_front() {
            return Poll::Ready(Some(InboxNext::Items(items)));
        }
        if state.is_closed {
            return Poll::Ready(state.end.take().map(InboxNext::End));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Notes that so many items were read. Returns the new total if a credit is due.
    pub(crate) fn consume(&self, items: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        let granted = state.window.consume(items)?;
        let producer = state.producer.take();
        let is_closed = state.is_closed;
        drop(state);
        producer.into_iter().for_each(Waker::wake);
        (!is_closed).then_some(granted)
    }

    /// The total number of items that may come.
    pub(crate) fn granted(&self) -> u64 {
        lock(&self.state).window.granted()
    }

    /// The number of items that came.
    pub(crate) fn received(&self) -> u64 {
        lock(&self.state).window.received()
    }
}

/// A producer's way to an inbox in this process.
pub(crate) struct LocalSink<E> {
    inbox: Arc<Inbox<E>>,
    max_item: usize,
}

impl<E> LocalSink<E> {
    pub(crate) fn new(inbox: &Arc<Inbox<E>>, max_item: usize) -> Self {
        Self {
            inbox: Arc::clone(inbox),
            max_item,
        }
    }
}

impl<E: Send> ItemSink for LocalSink<E> {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
        let mut state = lock(&self.inbox.state);
        if state.is_closed {
            return Poll::Ready(Err(SinkClosed));
        }
        let room = state.window.room();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        state.producer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn open(&self) -> Result<(), SinkClosed> {
        self.inbox.open();
        Ok(())
    }

    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
        self.inbox.change(|state| {
            if state.is_closed {
                return Err(SinkClosed);
            }
            for item in items {
                let number = state.window.received();
                let received = state.window.receive(number, 1);
                received.map_err(|_| SinkClosed)?;
                state.items.push_back(Items::one(item.clone()));
            }
            Ok(())
        })
    }

    fn max_item(&self) -> usize {
        self.max_item
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.inbox.state);
        if state.is_closed {
            return Poll::Ready(());
        }
        state.producer = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;

    fn next(inbox: &Inbox<&'static str>) -> Option<Option<InboxNext<&'static str>>> {
        poll_fn(|cx| inbox.poll_next(cx)).now_or_never()
    }

    fn item() -> Items {
        Items::one(Bytes::from_static(b"1"))
    }

    #[test]
    fn the_end_comes_behind_the_items() {
        let inbox = Inbox::new(2);
        inbox.push(0, item()).unwrap();
        inbox.end("over");
        inbox.end("again");
        assert!(matches!(next(&inbox), Some(Some(InboxNext::Items(_)))));
        assert_eq!(
            inbox.consume(1),
            None,
            "no credit for a stream that has ended"
        );
        assert!(matches!(next(&inbox), Some(Some(InboxNext::End("over")))));
        assert!(matches!(next(&inbox), Some(None)));
    }

    #[test]
    fn it_holds_no_more_than_its_window() {
        let inbox = Inbox::<&str>::new(2);
        for number in 0..2 {
            inbox.push(number, item()).unwrap();
        }
        let fault = StreamFault::OverCredit { allowed: 2 };
        assert_eq!(inbox.push(2, item()), Err(fault));
        assert_eq!(inbox.consume(1), Some(3));
        inbox.push(2, item()).unwrap();
        assert_eq!(inbox.granted(), 3);
    }

    #[tokio::test]
    async fn a_producer_in_this_process_waits_for_the_reader() {
        let inbox = Arc::new(Inbox::<&str>::new(1));
        let sink = LocalSink::new(&inbox, 100);
        assert_eq!(poll_fn(|cx| sink.poll_credit(cx)).await, Ok(1));
        sink.send(&[Bytes::from_static(b"1")]).unwrap();
        assert!(poll_fn(|cx| inbox.poll_opened(cx)).await);
        let waiting = poll_fn(|cx| sink.poll_credit(cx));
        let reading = async {
            assert!(matches!(next(&inbox), Some(Some(InboxNext::Items(_)))));
            inbox.consume(1);
        };
        assert_eq!(tokio::join!(waiting, reading).0, Ok(1));
        inbox.close();
        assert_eq!(poll_fn(|cx| sink.poll_credit(cx)).await, Err(SinkClosed));
    }
}
