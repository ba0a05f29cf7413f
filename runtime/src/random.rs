//! Random identities, marks that cannot be guessed, and random fractions for jitter.

use uuid::Uuid;

const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The number of digits of 64 bits in base 62.
const DIGITS_OF_U64: usize = 11;

/// A unique name: a random UUID as 22 letters and digits. That is 14 bytes shorter than a UUID's usual form,
/// and each byte in the properties of a persistent message has a measurable cost for the broker.
pub(crate) fn identity() -> String {
    let (first, second) = Uuid::new_v4().as_u64_pair();
    encode_pair(first, second)
}

fn encode_pair(first: u64, second: u64) -> String {
    let mut text = String::with_capacity(2 * DIGITS_OF_U64);
    for half in [first, second] {
        text.extend(digits(half).map(char::from));
    }
    text
}

/// A number as letters and digits.
pub(crate) fn digits(mut number: u64) -> [u8; DIGITS_OF_U64] {
    [(); DIGITS_OF_U64].map(|()| {
        let digit = DIGITS.get((number % 62) as usize).copied();
        number /= 62;
        digit.unwrap_or(b'0')
    })
}

/// A random key for marks of numbers: SipHash-2-4 (Aumasson and Bernstein, 2012). A peer that has seen the
/// marks of many numbers cannot guess the mark of another one.
#[derive(Clone)]
pub(crate) struct Secret(u64, u64);

impl Secret {
    pub(crate) fn new() -> Self {
        let (first, second) = Uuid::new_v4().as_u64_pair();
        Self(first, second)
    }

    /// The mark of a number.
    pub(crate) fn mark(&self, number: u64) -> u64 {
        let Self(first, second) = *self;
        let mut state = [
            first ^ 0x736f_6d65_7073_6575,
            second ^ 0x646f_7261_6e64_6f6d,
            first ^ 0x6c79_6765_6e65_7261,
            second ^ 0x7465_6462_7974_6573,
        ];
        // The eight bytes of the number, then a block with how many there were.
        for block in [number, 8 << 56] {
            state[3] ^= block;
            rounds(&mut state, 2);
            state[0] ^= block;
        }
        state[2] ^= 0xff;
        rounds(&mut state, 4);
        state.iter().fold(0, |all, part| all ^ part)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

fn rounds([a, b, c, d]: &mut [u64; 4], count: usize) {
    for _ in 0..count {
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*b);
        *a = a.wrapping_add(*d);
        *b = b.rotate_left(17) ^ *c;
        *d = d.rotate_left(21) ^ *a;
        *c = c.rotate_left(32);
    }
}

/// A random number from 0 to 1. It comes from a UUID, because the crate has no other source of randomness.
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
            let text = encode_pair(first, second);
            prop_assert_eq!(text.len(), 22);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            let (start, end) = text.split_at(11);
            prop_assert_eq!((read(start), read(end)), (first.into(), second.into()));
        }
    }

    #[test]
    fn a_mark_is_the_authors_test_vector_of_siphash() {
        // Their key 00 01 … 0f, and their message of eight bytes.
        let key = Secret(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(key.mark(0x0706_0504_0302_0100), 0x93f5_f579_9a93_2462);
        assert_ne!(Secret::new().mark(1), Secret::new().mark(1));
        assert_eq!(format!("{key:?}"), "Secret");
    }

    #[test]
    fn the_largest_fits() {
        assert_eq!(read(&encode_pair(u64::MAX, 0)[..11]), u64::MAX.into());
        assert_ne!(identity(), identity());
    }
}
