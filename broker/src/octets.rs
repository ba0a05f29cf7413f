//! Names that may not be UTF-8, as text.
//!
//! RabbitMQ checks that the names in methods are UTF-8, but neither the exchange and the routing
//! key of a message nor the keys of tables. Here all of them are kept as `String`, so that they can be
//! compared and split alike: an octet that is not UTF-8 is decoded as a character of a private range,
//! and encoded as that octet when it is sent. A character of that range in a client's name is decoded
//! as its three octets, so that nothing is lost and different names stay different.

use std::borrow::Cow;

/// The octets 0x80 to 0xff are decoded as U+EF80 to U+EFFF.
const STAND_INS: u32 = 0xef00;
/// The first octet of each of these characters in UTF-8.
const LEAD: u8 = 0xee;

/// Decodes octets as text.
pub(crate) fn decode(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) if !octets.contains(&LEAD) => text.to_owned(),
        _ => decode_slowly(octets),
    }
}

fn decode_slowly(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        for character in chunk.valid().chars() {
            if octet(character).is_some() {
                let mut encoded = [0; 4];
                let encoded = character.encode_utf8(&mut encoded).as_bytes();
                text.extend(encoded.iter().copied().filter_map(stand_in));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().copied().filter_map(stand_in));
    }
    text
}

/// Encodes a text as the octets that [`decode`] made it from.
pub(crate) fn encode(text: &str) -> Cow<'_, [u8]> {
    if !text.as_bytes().contains(&LEAD) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut octets = Vec::with_capacity(text.len());
    for character in text.chars() {
        match octet(character) {
            Some(octet) => octets.push(octet),
            None => octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(octets)
}

/// The text for display: octets that are not UTF-8 are replaced with U+FFFD.
pub(crate) fn display(text: &str) -> String {
    String::from_utf8_lossy(&encode(text)).into_owned()
}

fn stand_in(octet: u8) -> Option<char> {
    char::from_u32(STAND_INS + u32::from(octet))
}

fn octet(character: char) -> Option<u8> {
    u32::from(character)
        .checked_sub(STAND_INS)
        .and_then(|octet| u8::try_from(octet).ok())
        .filter(|octet| *octet >= 0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "a.b", "é", "\u{10ffff}", "\u{ee00}"] {
            assert_eq!(decode(text.as_bytes()), text);
            assert_eq!(*encode(text), *text.as_bytes());
            assert_eq!(display(text), text);
        }
    }

    #[test]
    fn what_is_not_utf8_is_split_like_text_and_shown_as_replaced() {
        let text = decode(b"a.\xff.b");
        assert_eq!(text.split('.').collect::<Vec<_>>(), ["a", "\u{efff}", "b"]);
        assert_eq!(display(&text), "a.\u{fffd}.b");
    }

    proptest! {
        #[test]
        fn octets_come_back(octets: Vec<u8>) {
            let text = decode(&octets);
            prop_assert_eq!(&*encode(&text), &octets[..]);
        }

        #[test]
        fn stand_ins_come_back(given in "[\u{ef7e}-\u{f002}a]*") {
            let text = decode(given.as_bytes());
            prop_assert_eq!(&*encode(&text), given.as_bytes());
        }
    }
}
