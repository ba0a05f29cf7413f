//! Table of the calls in flight, by number. Pure bookkeeping: no clock, no task, no lock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The calls in flight on a reply queue.
///
/// An id is a counter. It is unique for as long as the table lives.
#[derive(Debug)]
pub(crate) struct InFlightTable<C> {
    next_id: u64,
    calls: HashMap<u64, C, BuildHasherDefault<IdHasher>>,
}

/// The hash of an id. It need not withstand chosen keys, as the standard one does at a multiple of the cost: ids are
/// counted here, and peers can only look one up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl IdHasher {
    /// An odd number near 2⁶⁴ ÷ φ, which spreads consecutive ids over the whole range.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(Self::FACTOR);
    }
}

impl<C> Default for InFlightTable<C> {
    fn default() -> Self {
        Self {
            next_id: 1,
            calls: HashMap::default(),
        }
    }
}

impl<C> InFlightTable<C> {
    /// Adds a call, and gives its id.
    pub(crate) fn insert(&mut self, call: C) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.calls.insert(id, call);
        id
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut C> {
        self.calls.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &C)> {
        self.calls.iter().map(|(id, call)| (*id, call))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Removes a call. `None` if there is none of this id, or no longer.
    pub(crate) fn remove(&mut self, id: u64) -> Option<C> {
        self.calls.remove(&id)
    }

    /// Removes a call if `condition` holds for it. `None` if it does not, or there is none of this id.
    pub(crate) fn remove_if(&mut self, id: u64, condition: impl Fn(&C) -> bool) -> Option<C> {
        self.calls.get(&id).filter(|call| condition(call))?;
        self.calls.remove(&id)
    }

    /// Removes all calls for which `condition` holds.
    pub(crate) fn remove_where(&mut self, condition: impl Fn(&C) -> bool) -> Vec<C> {
        let removed = self.calls.extract_if(|_, call| condition(call));
        removed.map(|(_, call)| call).collect()
    }

    /// All calls that are left, when no reply can come any more.
    pub(crate) fn into_values(self) -> impl Iterator<Item = C> {
        self.calls.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Operation {
        Insert,
        Remove(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            Just(Operation::Insert),
            (0u64..40).prop_map(Operation::Remove),
        ]
    }

    proptest! {
        #[test]
        fn every_call_is_removed_once(operations in prop::collection::vec(operation(), 0..200)) {
            let mut table = InFlightTable::default();
            let mut model = BTreeMap::new();
            for (number, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Insert => {
                        let id = table.insert(number);
                        prop_assert!(model.insert(id, number).is_none());
                    }
                    Operation::Remove(id) => prop_assert_eq!(table.remove(id), model.remove(&id)),
                }
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            let mut all: Vec<_> = table.into_values().collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_values().collect::<Vec<_>>());
        }
    }
}
