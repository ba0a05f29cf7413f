//! Credit and order of a stream, at its sender and at its receiver. Pure: no clock, no lock, no I/O.
//!
//! Both count in running totals from the start of the stream, so that a credit that is lost or doubled does no
//! harm: the next one says it all.

use std::fmt;

/// The credit of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendCredit {
    sent: u64,
    allowed: u64,
}

impl SendCredit {
    /// A sender that may send this many items at first.
    pub(crate) fn new(allowed: u64) -> Self {
        Self { sent: 0, allowed }
    }

    /// A credit came: this many items are allowed in total. Returns whether that is more than before.
    pub(crate) fn grant(&mut self, total: u64) -> bool {
        let is_more = total > self.allowed;
        self.allowed = self.allowed.max(total);
        is_more
    }

    /// The number of items that may be sent now.
    pub(crate) fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.sent)
    }

    /// Notes that so many items were sent.
    pub(crate) fn send(&mut self, items: u64) {
        self.sent = self.sent.saturating_add(items);
    }

    /// The number of items that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of items that are allowed in total.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }
}

/// The items that a receiver has got, in their order, and the credit that it has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveWindow {
    window: u32,
    received: u64,
    consumed: u64,
    granted: u64,
}

/// A violation of a stream's rules by its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFault {
    /// The message with this number came where another one was due: one was lost, doubled or overtaken.
    OutOfOrder { due: u64, came: u64 },
    /// It belongs to another execution.
    ForeignRun,
    /// More items than the credit allows.
    OverCredit { allowed: u64 },
    /// A message that does not decode.
    Malformed,
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { due, came } => write!(
                f,
                "the stream is not complete: a message after {came} items came where one after {due} was due"
            ),
            Self::ForeignRun => f.write_str("a message of another execution of the stream came"),
            Self::OverCredit { allowed } => {
                write!(f, "more items came than the {allowed} that were allowed")
            }
            Self::Malformed => f.write_str("a message of the stream does not decode"),
        }
    }
}

impl ReceiveWindow {
    /// A receiver that holds at most `window` items that were not consumed. 0 counts as 1.
    pub(crate) fn new(window: u32) -> Self {
        let window = window.max(1);
        Self {
            window,
            received: 0,
            consumed: 0,
            granted: window.into(),
        }
    }

    /// Checks the number of a message without items.
    pub(crate) fn check(&self, number: u64) -> Result<(), StreamFault> {
        if number == self.received {
            return Ok(());
        }
        Err(StreamFault::OutOfOrder {
            due: self.received,
            came: number,
        })
    }

    /// Receives a message with so many items, the first of which has this number.
    pub(crate) fn receive(&mut self, number: u64, items: u64) -> Result<(), StreamFault> {
        self.check(number)?;
        let received = self.received.saturating_add(items);
        if received > self.granted {
            return Err(StreamFault::OverCredit {
                allowed: self.granted,
            });
        }
        self.received = received;
        Ok(())
    }

    /// Notes that so many items were consumed. Returns the new total if a credit is due: when at most half of the
    /// window is left.
    pub(crate) fn consume(&mut self, items: u64) -> Option<u64> {
        self.consumed = self.consumed.saturating_add(items).min(self.received);
        let left = self.granted - self.consumed;
        if left > u64::from(self.window / 2) {
            return None;
        }
        self.granted = self.consumed.saturating_add(self.window.into());
        Some(self.granted)
    }

    /// The total that was granted.
    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// The number of items that came.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The number of items that the window has room for.
    pub(crate) fn room(&self) -> u64 {
        self.granted - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credit_is_a_running_total() {
        let mut credit = SendCredit::new(2);
        assert_eq!(credit.left(), 2);
        credit.send(2);
        assert_eq!(credit.left(), 0);
        assert!(credit.grant(5));
        assert!(!credit.grant(5), "doubled");
        assert!(!credit.grant(3), "late");
        assert_eq!((credit.left(), credit.sent()), (3, 2));
    }

    #[test]
    fn credit_is_granted_at_half_the_window() {
        let mut window = ReceiveWindow::new(4);
        window.receive(0, 4).unwrap();
        assert_eq!(window.consume(1), None);
        assert_eq!(window.consume(1), Some(6));
        assert_eq!(window.consume(1), None);
        assert_eq!(window.consume(1), Some(8));
        let mut one = ReceiveWindow::new(0);
        for number in 0..3 {
            one.receive(number, 1).unwrap();
            assert_eq!(one.consume(1), Some(number + 2));
        }
    }

    #[test]
    fn violations_are_found() {
        let mut window = ReceiveWindow::new(4);
        window.receive(0, 3).unwrap();
        let out_of_order = |came| Err(StreamFault::OutOfOrder { due: 3, came });
        assert_eq!(window.receive(4, 1), out_of_order(4), "a gap");
        assert_eq!(window.receive(2, 1), out_of_order(2), "doubled");
        assert_eq!(window.check(4), out_of_order(4), "the last one is missing");
        let over_credit = Err(StreamFault::OverCredit { allowed: 4 });
        assert_eq!(window.receive(3, 2), over_credit);
        assert_eq!(window.receive(3, u64::MAX), over_credit);
        assert_eq!(window.receive(3, 1), Ok(()));
    }

    proptest! {
        /// A sender that obeys its credit, and a receiver that consumes: no item is over credit, no more than the
        /// window is held, and the stream never stalls, whichever credits are lost but the last one.
        #[test]
        fn an_obedient_sender_is_never_stopped(
            size in 1u32..40,
            steps in proptest::collection::vec((1u64..10, 1u64..10, any::<bool>()), 1..200),
        ) {
            let (mut sender, mut receiver) = (SendCredit::new(size.into()), ReceiveWindow::new(size));
            let mut held = 0;
            for (send, consume, is_lost) in steps {
                let count = send.min(sender.left());
                receiver.receive(sender.sent(), count).unwrap();
                sender.send(count);
                held += count;
                prop_assert!(held <= size.into());
                let consumed = consume.min(held);
                held -= consumed;
                let granted = receiver.consume(consumed);
                if let Some(total) = granted.filter(|_| !is_lost) {
                    sender.grant(total);
                }
                if held == 0 && sender.left() == 0 {
                    sender.grant(receiver.granted());
                    prop_assert!(sender.left() > 0);
                }
            }
        }
    }
}
