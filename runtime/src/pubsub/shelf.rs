//! What waits for a stream's reader, in order, and what is told to one that is slow.

use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::event::Missed;

/// A queue between a consumer and a reader.
#[derive(Debug)]
pub(super) struct Shelf<E> {
    goods: Mutex<Goods<E>>,
    reader: AtomicWaker,
}

/// What is given out next.
#[derive(Debug)]
pub(super) enum Slot<E> {
    Entry(E),
    Missed(Missed),
}

/// The state, without its lock.
#[derive(Debug)]
struct Goods<E> {
    slots: VecDeque<Slot<E>>,
    entries: usize,
    /// Entries that were dropped from the front, not told yet.
    lagged: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more comes.
    Ended,
    /// Nobody reads any more.
    Closed,
}

impl<E> Shelf<E> {
    pub(super) fn new() -> Self {
        Self {
            goods: Mutex::new(Goods {
                slots: VecDeque::new(),
                entries: 0,
                lagged: 0,
                state: State::Open,
            }),
            reader: AtomicWaker::new(),
        }
    }

    /// Adds an entry. Whoever adds bounds how many there are.
    pub(super) fn push(&self, entry: E) {
        self.goods().push(entry);
        self.reader.wake();
    }

    /// Adds an entry, and makes room by dropping the oldest; says how many those were.
    pub(super) fn push_over(&self, entry: E, capacity: usize) -> u64 {
        let dropped = {
            let mut goods = self.goods();
            let before = goods.lagged;
            while goods.entries >= capacity.max(1) && goods.drop_oldest() {}
            let dropped = goods.lagged - before;
            goods.push(entry);
            dropped
        };
        self.reader.wake();
        dropped
    }

    /// Adds word of something that was missed.
    pub(super) fn tell(&self, missed: Missed) {
        self.goods().tell(missed);
        self.reader.wake();
    }

    /// Nothing more will come: the reader's stream ends after what is here.
    pub(super) fn end(&self) {
        let mut goods = self.goods();
        if goods.state == State::Open {
            goods.state = State::Ended;
        }
        drop(goods);
        self.reader.wake();
    }

    /// The reader is gone: what waits is dropped, and so is what still comes.
    pub(super) fn close(&self) {
        let waiting = {
            let mut goods = self.goods();
            goods.state = State::Closed;
            goods.entries = 0;
            std::mem::take(&mut goods.slots)
        };
        // Not under the lock: what is dropped wakes others.
        drop(waiting);
    }

    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Slot<E>>> {
        // Registered first: what is pushed in between wakes again.
        self.reader.register(cx.waker());
        let mut goods = self.goods();
        match goods.take() {
            Some(slot) => Poll::Ready(Some(slot)),
            None if goods.state == State::Open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn goods(&self) -> MutexGuard<'_, Goods<E>> {
        lock(&self.goods)
    }
}

impl<E> Goods<E> {
    fn push(&mut self, entry: E) {
        if self.state == State::Closed {
            return;
        }
        self.entries += 1;
        self.slots.push_back(Slot::Entry(entry));
    }

    fn tell(&mut self, missed: Missed) {
        self.slots.push_back(Slot::Missed(missed));
        self.merge_at(self.slots.len().saturating_sub(2));
    }

    /// ChannelEvent that comes right after its like becomes one with it, so that however often the
    /// connection goes, a reader that is away costs a bounded room.
    fn merge_at(&mut self, at: usize) {
        let Some(Slot::Missed(later)) = self.slots.get(at + 1) else {
            return;
        };
        let later = later.clone();
        let Some(Slot::Missed(earlier)) = self.slots.get_mut(at) else {
            return;
        };
        match (&mut *earlier, later) {
            (Missed::Gap(earlier), Missed::Gap(later)) => earlier.merge(later),
            (Missed::Interrupted(earlier), Missed::Interrupted(later)) => *earlier = later,
            // It listens again, and the gap says for how long it did not.
            (interrupted @ Missed::Interrupted(_), gap @ Missed::Gap(_)) => *interrupted = gap,
            _ => return,
        }
        self.slots.remove(at + 1);
        if at > 0 {
            self.merge_at(at - 1);
        }
    }

    /// False when there is no entry.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Entry(_)));
        let Some(oldest) = oldest else { return false };
        self.slots.remove(oldest);
        self.entries -= 1;
        self.lagged += 1;
        if oldest > 0 {
            self.merge_at(oldest - 1);
        }
        true
    }

    fn take(&mut self) -> Option<Slot<E>> {
        if self.lagged > 0 {
            let events = std::mem::take(&mut self.lagged);
            return Some(Slot::Missed(Missed::Lagged { events }));
        }
        let slot = self.slots.pop_front()?;
        if matches!(slot, Slot::Entry(_)) {
            self.entries -= 1;
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Gap;
    use super::*;
    use crate::error::{Error, Kind};
    use std::task::Waker;
    use std::time::Duration;

    fn gap(seconds: u64) -> Missed {
        let (away, reason) = (Duration::from_secs(seconds), None);
        Missed::Gap(Gap { away, reason })
    }

    fn all(shelf: &Shelf<u32>) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        while let Poll::Ready(Some(slot)) = shelf.poll_take(&mut cx) {
            seen.push(match slot {
                Slot::Entry(entry) => entry.to_string(),
                Slot::Missed(Missed::Lagged { events }) => format!("lagged {events}"),
                Slot::Missed(Missed::Gap(gap)) => format!("gap {}", gap.away().as_secs()),
                Slot::Missed(missed) => missed.to_string(),
            });
        }
        seen
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let shelf = Shelf::new();
        for n in 1..=7 {
            assert_eq!(shelf.push_over(n, 3), u64::from(n > 3));
        }
        assert_eq!(all(&shelf), ["lagged 4", "5", "6", "7"]);
        shelf.push_over(8, 3);
        assert_eq!(all(&shelf), ["8"]);
    }

    #[test]
    fn gaps_stay_in_their_place_and_become_one_where_nothing_is_between() {
        let shelf = Shelf::new();
        shelf.push_over(1, 2);
        shelf.tell(gap(1));
        shelf.push_over(2, 2);
        shelf.tell(gap(2));
        shelf.push_over(3, 2);
        shelf.push_over(4, 2);
        assert_eq!(all(&shelf), ["lagged 2", "gap 3", "3", "4"]);
        for _ in 0..1000 {
            shelf.tell(Missed::Interrupted(Error::new(Kind::Disconnected)));
            shelf.tell(gap(1));
        }
        assert_eq!(all(&shelf), ["gap 1000"]);
    }

    #[test]
    fn the_stream_ends_after_what_is_there() {
        let shelf = Shelf::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(shelf.poll_take(&mut cx).is_pending());
        shelf.push(1);
        shelf.end();
        assert_eq!(all(&shelf), ["1"]);
        assert!(matches!(shelf.poll_take(&mut cx), Poll::Ready(None)));
        shelf.push(2);
        shelf.close();
        shelf.push(3);
        assert!(matches!(shelf.poll_take(&mut cx), Poll::Ready(None)));
    }
}
