//! Acknowledgements (`basic.ack`) of a channel's deliveries, in as few frames as possible. Pure.

use std::collections::VecDeque;

/// The deliveries of one channel, beginning with the first that is not settled.
///
/// The broker numbers them from 1, without gaps. An acknowledgement with `multiple` covers all deliveries up
/// to its tag, so it is used only up to the first delivery whose handler still runs. Later deliveries that are
/// done are acknowledged one by one, because a slow handler must not keep the others unacknowledged. The tag
/// must be that of an unsettled delivery: the broker closes the channel over an unknown tag.
#[derive(Debug)]
pub(crate) struct Acks {
    first: u64,
    states: VecDeque<AckState>,
    done: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckState {
    Open,
    Done,
    /// Settled.
    Gone,
}

/// One acknowledgement to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    One(u64),
    UpTo(u64),
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            first: 1,
            states: VecDeque::new(),
            done: 0,
        }
    }
}

impl Acks {
    /// Notes a delivery that is to be acknowledged.
    pub(crate) fn done(&mut self, tag: u64) {
        if self.set(tag, AckState::Done) {
            self.done += 1;
        }
    }

    /// Notes a delivery that was settled in another way.
    pub(crate) fn gone(&mut self, tag: u64) {
        self.set(tag, AckState::Gone);
        // If no delivery is ever acknowledged, nothing is flushed, and only this keeps the list short.
        while self.states.front() == Some(&AckState::Gone) {
            self.states.pop_front();
            self.first += 1;
        }
    }

    /// The number of deliveries that are to be acknowledged.
    pub(crate) fn waiting(&self) -> usize {
        self.done
    }

    /// The acknowledgements to send now, in this order.
    pub(crate) fn flush(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        let (mut run, mut last) = (0, None);
        while let Some(state) = self
            .states
            .front()
            .filter(|state| **state != AckState::Open)
        {
            if *state == AckState::Done {
                run += 1;
                last = Some(self.first);
            }
            self.states.pop_front();
            self.first += 1;
        }
        match (run, last) {
            (1, Some(tag)) => acks.push(Ack::One(tag)),
            (_, Some(tag)) => acks.push(Ack::UpTo(tag)),
            (_, None) => {}
        }
        if self.done > run {
            for (tag, state) in (self.first..).zip(&mut self.states) {
                if *state == AckState::Done {
                    *state = AckState::Gone;
                    acks.push(Ack::One(tag));
                }
            }
        }
        self.done = 0;
        acks
    }

    fn set(&mut self, tag: u64, state: AckState) -> bool {
        let Some(at) = tag
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return false;
        };
        if self.states.len() <= at {
            self.states.resize(at + 1, AckState::Open);
        }
        match self.states.get_mut(at) {
            Some(open) if *open == AckState::Open => {
                *open = state;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_run_is_one_frame_and_a_slow_one_holds_nobody() {
        let mut acks = Acks::default();
        for tag in [1, 3, 4] {
            acks.done(tag);
        }
        assert_eq!(acks.flush(), [Ack::One(1), Ack::One(3), Ack::One(4)]);
        for tag in [2, 5, 6] {
            acks.done(tag);
        }
        assert_eq!(acks.flush(), [Ack::UpTo(6)]);
        assert_eq!(acks.flush(), []);
    }

    #[test]
    fn what_is_gone_is_never_named() {
        let mut acks = Acks::default();
        acks.done(1);
        acks.done(2);
        acks.gone(3);
        assert_eq!(acks.flush(), [Ack::UpTo(2)]);
        acks.gone(4);
        assert_eq!(acks.flush(), []);
        for tag in 5..1000 {
            acks.gone(tag);
        }
        assert!(acks.states.is_empty());
        acks.done(1000);
        assert_eq!(acks.flush(), [Ack::One(1000)]);
    }

    proptest! {
        /// The broker's side: every acknowledgement names an unsettled delivery, and covers only
        /// those that are done.
        #[test]
        fn the_broker_never_sees_an_unknown_tag(
            order in Just((1u64..40).collect::<Vec<_>>()).prop_shuffle(),
            flushes in prop::collection::vec(any::<bool>(), 39),
            gone in prop::collection::vec(prop::bool::weighted(0.2), 39),
        ) {
            let mut acks = Acks::default();
            let mut unsettled: BTreeSet<u64> = (1..40).collect();
            let mut done = BTreeSet::new();
            for ((tag, flush), gone) in order.into_iter().zip(flushes).zip(gone) {
                if gone {
                    acks.gone(tag);
                    unsettled.remove(&tag);
                } else {
                    acks.done(tag);
                    done.insert(tag);
                }
                if flush || unsettled.len() == done.len() {
                    for ack in acks.flush() {
                        let (Ack::One(tag) | Ack::UpTo(tag)) = ack;
                        prop_assert!(unsettled.contains(&tag));
                        let covered: Vec<_> = match ack {
                            Ack::One(tag) => vec![tag],
                            Ack::UpTo(tag) => unsettled.range(..=tag).copied().collect(),
                        };
                        for tag in covered {
                            prop_assert!(done.remove(&tag), "{tag} was not done");
                            unsettled.remove(&tag);
                        }
                    }
                    prop_assert!(done.is_empty());
                }
            }
        }
    }
}
