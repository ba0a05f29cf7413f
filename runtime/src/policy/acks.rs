//! Which deliveries of a channel are to be acknowledged, in as few frames as the order allows.
//! Pure.

use std::collections::VecDeque;

/// The deliveries of one channel, from the first that is not settled on.
///
/// The broker numbers them from 1, without gaps. An acknowledgement with `multiple` covers all up
/// to its own number, so it is used only up to the first delivery that is still worked on; what is
/// done beyond that is acknowledged one by one, for a slow handler must not hold the others'
/// places. Its own number must be of a delivery that is not settled yet: the broker closes the
/// channel over an unknown one.
#[derive(Debug)]
pub(crate) struct Acks {
    first: u64,
    states: VecDeque<State>,
    done: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    /// Settled already, by whatever means.
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
    /// A delivery that is to be acknowledged.
    pub(crate) fn done(&mut self, tag: u64) {
        if self.set(tag, State::Done) {
            self.done += 1;
        }
    }

    /// A delivery that was settled otherwise.
    pub(crate) fn gone(&mut self, tag: u64) {
        self.set(tag, State::Gone);
        // Where nothing is ever acknowledged nothing is flushed either, and this is all that keeps
        // the ledger short.
        while self.states.front() == Some(&State::Gone) {
            self.states.pop_front();
            self.first += 1;
        }
    }

    /// How many wait to be acknowledged.
    pub(crate) fn waiting(&self) -> usize {
        self.done
    }

    /// The acknowledgements to send now, in this order.
    pub(crate) fn flush(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        let (mut run, mut last) = (0, None);
        while let Some(state) = self.states.front().filter(|state| **state != State::Open) {
            if *state == State::Done {
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
                if *state == State::Done {
                    *state = State::Gone;
                    acks.push(Ack::One(tag));
                }
            }
        }
        self.done = 0;
        acks
    }

    fn set(&mut self, tag: u64, state: State) -> bool {
        let Some(at) = tag
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return false;
        };
        if self.states.len() <= at {
            self.states.resize(at + 1, State::Open);
        }
        match self.states.get_mut(at) {
            Some(open) if *open == State::Open => {
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
