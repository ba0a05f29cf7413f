//! What has to differ from everything else: identities, and the jitter of waits.

use uuid::Uuid;

const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How many of them hold 64 bits.
const HALF: usize = 11;

/// A name that nothing else has: a random UUID as 22 letters and digits. Each byte of a persistent
/// message's properties costs the broker as much as some of a whole transient one, and a UUID's
/// usual form has 14 more.
pub(crate) fn identity() -> String {
    let (first, second) = Uuid::new_v4().as_u64_pair();
    written(first, second)
}

fn written(first: u64, second: u64) -> String {
    let mut text = String::with_capacity(2 * HALF);
    for mut half in [first, second] {
        for _ in 0..HALF {
            let digit = DIGITS.get((half % 62) as usize).copied();
            text.push(digit.map_or('0', char::from));
            half /= 62;
        }
    }
    text
}

/// From 0 to 1. UUIDs are the one source of randomness the crate has anyway.
pub(crate) fn fraction() -> f64 {
    let bits = Uuid::new_v4().as_u128() as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(half: &str) -> u128 {
        let digits = half.bytes().rev();
        let value = |digit| DIGITS.iter().position(|known| *known == digit).unwrap() as u128;
        digits.fold(0, |read, digit| read * 62 + value(digit))
    }

    proptest! {
        #[test]
        fn no_bit_of_an_identity_is_lost(first: u64, second: u64) {
            let text = written(first, second);
            prop_assert_eq!(text.len(), 22);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            let (start, end) = text.split_at(11);
            prop_assert_eq!((read(start), read(end)), (first.into(), second.into()));
        }
    }

    #[test]
    fn the_largest_fits() {
        assert_eq!(read(&written(u64::MAX, 0)[..11]), u64::MAX.into());
        assert_ne!(identity(), identity());
    }
}
