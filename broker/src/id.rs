//! Identifiers of connections, queues and consumers. They are never used again, so a late reference to
//! something that was deleted finds nothing.

use std::{fmt, sync::Arc};

/// The name of a queue or an exchange, or a consumer tag, shared without copies.
pub(crate) type Name = Arc<str>;

/// The id of a client connection. Ids grow, and a broker never uses one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The id of a queue, from its declaration to its deletion. A queue that is declared again under the
/// same name has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueId(pub(crate) u64);

/// The id of a consumer, from `basic.consume` to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerId(pub(crate) u64);

/// Generates the random part of server-generated names (`amq.gen-…`, `amq.ctag-…`).
#[derive(Debug)]
pub(crate) struct NameSource(u64);

impl NameSource {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 22 characters of URL-safe base 64, as in RabbitMQ's names.
    pub(crate) fn token(&mut self) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut token = String::with_capacity(22);
        let mut bits = 0;
        for position in 0..22 {
            if position % 10 == 0 {
                bits = self.next();
            }
            let index = (bits & 63) as usize;
            token.push(char::from(*ALPHABET.get(index).unwrap_or(&b'A')));
            bits >>= 6;
        }
        token
    }

    /// SplitMix64: small, and every seed gives a full period.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_follow_the_seed() {
        let mut one = NameSource::new(7);
        let mut two = NameSource::new(7);
        let first = one.token();
        assert_eq!(first.len(), 22);
        assert_eq!(first, two.token());
        assert_ne!(first, one.token());
    }
}
