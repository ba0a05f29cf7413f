//! The calls in flight. Pure bookkeeping: no clock, no task, no lock.

use std::collections::HashMap;

/// What a caller's reply queue waits for, by correlation id.
///
/// Ids are a counter, unique within one reply queue for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pending<W> {
    next: u64,
    waiting: HashMap<u64, W>,
}

impl<W> Default for Pending<W> {
    fn default() -> Self {
        Self {
            next: 1,
            waiting: HashMap::new(),
        }
    }
}

impl<W> Pending<W> {
    /// Takes a waiter in and names it.
    pub(crate) fn insert(&mut self, waiter: W) -> u64 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(id, waiter);
        id
    }

    /// The waiter that a reply or a returned request is for, once.
    pub(crate) fn take(&mut self, id: u64) -> Option<W> {
        self.waiting.remove(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut W> {
        self.waiting.get_mut(&id)
    }

    /// Everyone who waits, with the names they were given.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &W)> {
        self.waiting.iter().map(|(id, waiter)| (*id, waiter))
    }

    /// The waiters that an answer to several is for, once.
    pub(crate) fn take_all(&mut self, wanted: impl Fn(&W) -> bool) -> Vec<W> {
        let taken = self.waiting.extract_if(|_, waiter| wanted(waiter));
        taken.map(|(_, waiter)| waiter).collect()
    }

    /// Everyone who still waits; for when no answer can come any more.
    pub(crate) fn into_all(self) -> impl Iterator<Item = W> {
        self.waiting.into_values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Insert,
        Take(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Insert), (0u64..40).prop_map(Step::Take),]
    }

    proptest! {
        #[test]
        fn every_waiter_is_given_out_once(steps in prop::collection::vec(step(), 0..200)) {
            let mut pending = Pending::default();
            let mut model = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert => {
                        let id = pending.insert(number);
                        prop_assert!(model.insert(id, number).is_none());
                    }
                    Step::Take(id) => prop_assert_eq!(pending.take(id), model.remove(&id)),
                }
                prop_assert_eq!(pending.is_empty(), model.is_empty());
            }
            let mut all: Vec<_> = pending.into_all().collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_values().collect::<Vec<_>>());
        }
    }
}
