//! Correlation ids: the property of a request that its reply repeats. `reply_queue/replies.rs` finds the call of a
//! reply by it, in the table of `reply_queue/in_flight.rs`.

use std::io::Write;

use crate::random::{self, Secret};

/// The address of a call's reply: the reply queue, and the number of the call there.
#[derive(Clone, Copy)]
pub(super) struct ReplyAddress<'a> {
    pub(super) reply_to: &'a str,
    pub(super) id: u64,
    pub(super) secret: &'a Secret,
}

/// The content of a correlation id: the number of a call or of a batch, behind a mark.
///
/// The mark is keyed by a secret of the reply queue. Without it, a server that was called once could
/// guess the ids of other calls, and answer them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CorrelationId {
    Call(u64),
    Batch(u64),
}

impl CorrelationId {
    /// Stands before the number of a batch.
    const BATCH: u8 = b'm';

    pub(super) fn encode(self, secret: &Secret) -> Vec<u8> {
        let (Self::Call(number) | Self::Batch(number)) = self;
        let mark = random::digits(secret.mark(number));
        let mut text = Vec::with_capacity(mark.len() + 12);
        text.extend(mark);
        if matches!(self, Self::Batch(_)) {
            text.push(Self::BATCH);
        }
        // Writing to memory does not fail.
        let _ = write!(text, "{number}");
        text
    }

    /// Decodes an id. `None` if it was not encoded with this secret.
    pub(super) fn decode(text: &[u8], secret: &Secret) -> Option<Self> {
        let (mark, rest) = text.split_first_chunk()?;
        let (digits, is_batch) = match rest.strip_prefix(&[Self::BATCH]) {
            Some(digits) => (digits, true),
            None => (rest, false),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (random::digits(secret.mark(number)) == *mark).then_some(if is_batch {
            Self::Batch(number)
        } else {
            Self::Call(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_decodes_with_its_own_secret_only(number: u64, is_batch: bool) {
            let id = if is_batch {
                CorrelationId::Batch(number)
            } else {
                CorrelationId::Call(number)
            };
            let (secret, other) = (Secret::new(), Secret::new());
            let text = id.encode(&secret);
            prop_assert!(text.is_ascii() && text.len() <= 32);
            prop_assert_eq!(CorrelationId::decode(&text, &secret), Some(id));
            prop_assert_eq!(CorrelationId::decode(&text, &other), None);
        }

        #[test]
        fn other_texts_do_not_decode(text in any::<Vec<u8>>(), number: u64) {
            let secret = Secret::new();
            prop_assert_eq!(CorrelationId::decode(&text, &secret), None);
            let text = number.to_string();
            prop_assert_eq!(CorrelationId::decode(text.as_bytes(), &secret), None);
        }
    }
}
