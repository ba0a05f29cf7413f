//! Buffer between a consumer and the reader of a stream: events and reports of missed ones, in
//! order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::super::event::Missed;
use crate::sync::lock;

/// A queue between a consumer and a reader. The reader is woken by each change.
#[derive(Debug)]
pub(super) struct EventBuffer<E> {
    state: Mutex<BufferState<E>>,
    reader: AtomicWaker,
}

/// An item of the stream.
#[derive(Debug)]
pub(super) enum BufferItem<E> {
    Event(E),
    Missed(Missed),
}

#[derive(Debug)]
struct BufferState<E> {
    items: VecDeque<BufferItem<E>>,
    /// The number of events among the items.
    events: usize,
    /// The number of events that were dropped and not reported yet.
    lagged: u64,
    phase: StreamPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamPhase {
    Open,
    /// The consumer has ended: the stream ends after the items that are there.
    Ended,
    /// The reader has closed the stream.
    Closed,
}

impl<E> EventBuffer<E> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(BufferState {
                items: VecDeque::new(),
                events: 0,
                lagged: 0,
                phase: StreamPhase::Open,
            }),
            reader: AtomicWaker::new(),
        }
    }

    /// Adds an event. The consumer's prefetch bounds the number of events in the buffer.
    pub(super) fn push(&self, event: E) {
        self.state().push(event);
        self.reader.wake();
    }

    /// Adds an event, and drops the oldest ones over the capacity. Returns the number of those.
    pub(super) fn push_dropping_oldest(&self, event: E, capacity: usize) -> u64 {
        let dropped = {
            let mut state = self.state();
            let before = state.lagged;
            while state.events >= capacity.max(1) && state.drop_oldest() {}
            let dropped = state.lagged - before;
            state.push(event);
            dropped
        };
        self.reader.wake();
        dropped
    }

    /// Adds a report of missed events.
    pub(super) fn push_missed(&self, missed: Missed) {
        self.state().push_missed(missed);
        self.reader.wake();
    }

    /// Ends the stream after the items that are there.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if state.phase == StreamPhase::Open {
            state.phase = StreamPhase::Ended;
        }
        drop(state);
        self.reader.wake();
    }

    /// Drops the items that are there, and all events that are still added.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.phase = StreamPhase::Closed;
            state.events = 0;
            std::mem::take(&mut state.items)
        };
        // Not under the lock: dropping an event wakes the task that holds its delivery.
        drop(waiting);
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<BufferItem<E>>> {
        // The waker is registered first, so that an item added in between is not overlooked.
        self.reader.register(cx.waker());
        let mut state = self.state();
        match state.pop() {
            Some(item) => Poll::Ready(Some(item)),
            None if state.phase == StreamPhase::Open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, BufferState<E>> {
        lock(&self.state)
    }
}

impl<E> BufferState<E> {
    fn push(&mut self, event: E) {
        if self.phase == StreamPhase::Closed {
            return;
        }
        self.events += 1;
        self.items.push_back(BufferItem::Event(event));
    }

    fn push_missed(&mut self, missed: Missed) {
        self.items.push_back(BufferItem::Missed(missed));
        self.merge_at(self.items.len().saturating_sub(2));
    }

    /// Merges the report at this position with the one behind it, if both are gaps or
    /// interruptions: however often the connection is lost, a reader that does not read has a
    /// bounded number of reports waiting.
    fn merge_at(&mut self, at: usize) {
        let Some(BufferItem::Missed(later)) = self.items.get(at + 1) else {
            return;
        };
        let later = later.clone();
        let Some(BufferItem::Missed(earlier)) = self.items.get_mut(at) else {
            return;
        };
        match (&mut *earlier, later) {
            (Missed::Gap(earlier), Missed::Gap(later)) => earlier.merge(later),
            (Missed::Interrupted(earlier), Missed::Interrupted(later)) => *earlier = later,
            // The gap follows the interruption, and covers its time.
            (interrupted @ Missed::Interrupted(_), gap @ Missed::Gap(_)) => *interrupted = gap,
            _ => return,
        }
        self.items.remove(at + 1);
        if at > 0 {
            self.merge_at(at - 1);
        }
    }

    /// Returns whether there was an event to drop.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self
            .items
            .iter()
            .position(|item| matches!(item, BufferItem::Event(_)));
        let Some(oldest) = oldest else { return false };
        self.items.remove(oldest);
        self.events -= 1;
        self.lagged += 1;
        if oldest > 0 {
            self.merge_at(oldest - 1);
        }
        true
    }

    fn pop(&mut self) -> Option<BufferItem<E>> {
        if self.lagged > 0 {
            let events = std::mem::take(&mut self.lagged);
            return Some(BufferItem::Missed(Missed::Lagged { events }));
        }
        let item = self.items.pop_front()?;
        if matches!(item, BufferItem::Event(_)) {
            self.events -= 1;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::pubsub::event::Gap;
    use std::task::Waker;
    use std::time::Duration;

    fn gap(seconds: u64) -> Missed {
        let (away, reason) = (Duration::from_secs(seconds), None);
        Missed::Gap(Gap { away, reason })
    }

    fn all(buffer: &EventBuffer<u32>) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        while let Poll::Ready(Some(item)) = buffer.poll_next(&mut cx) {
            seen.push(match item {
                BufferItem::Event(event) => event.to_string(),
                BufferItem::Missed(Missed::Lagged { events }) => format!("lagged {events}"),
                BufferItem::Missed(Missed::Gap(gap)) => format!("gap {}", gap.away().as_secs()),
                BufferItem::Missed(missed) => missed.to_string(),
            });
        }
        seen
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let buffer = EventBuffer::new();
        for n in 1..=7 {
            assert_eq!(buffer.push_dropping_oldest(n, 3), u64::from(n > 3));
        }
        assert_eq!(all(&buffer), ["lagged 4", "5", "6", "7"]);
        buffer.push_dropping_oldest(8, 3);
        assert_eq!(all(&buffer), ["8"]);
    }

    #[test]
    fn gaps_stay_in_their_place_and_become_one_where_nothing_is_between() {
        let buffer = EventBuffer::new();
        buffer.push_dropping_oldest(1, 2);
        buffer.push_missed(gap(1));
        buffer.push_dropping_oldest(2, 2);
        buffer.push_missed(gap(2));
        buffer.push_dropping_oldest(3, 2);
        buffer.push_dropping_oldest(4, 2);
        assert_eq!(all(&buffer), ["lagged 2", "gap 3", "3", "4"]);
        for _ in 0..1000 {
            buffer.push_missed(Missed::Interrupted(Error::new(ErrorKind::Disconnected)));
            buffer.push_missed(gap(1));
        }
        assert_eq!(all(&buffer), ["gap 1000"]);
    }

    #[test]
    fn the_stream_ends_after_what_is_there() {
        let buffer = EventBuffer::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(buffer.poll_next(&mut cx).is_pending());
        buffer.push(1);
        buffer.end();
        assert_eq!(all(&buffer), ["1"]);
        assert!(matches!(buffer.poll_next(&mut cx), Poll::Ready(None)));
        buffer.push(2);
        buffer.close();
        buffer.push(3);
        assert!(matches!(buffer.poll_next(&mut cx), Poll::Ready(None)));
    }
}
