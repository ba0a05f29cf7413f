//! Items of a stream that share a message (`lepus.items/1`), and the total of a credit (`lepus.credit/1`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::codec::{Codec, CodecError};

/// The size at which items that are ready are sent as one message, in bytes.
pub(crate) const MAX_ITEMS_SIZE: usize = 64 * 1024;

/// Encodes items as a MessagePack array of bin.
pub(crate) fn encode_items(items: &[Bytes]) -> Bytes {
    let size: usize = items.iter().map(|item| item.len() + 5).sum();
    let mut body = BytesMut::with_capacity(size + 5);
    match u16::try_from(items.len()) {
        Ok(count @ 0..16) => body.put_u8(0x90 | count as u8),
        Ok(count) => {
            body.put_u8(0xdc);
            body.put_u16(count);
        }
        Err(_) => {
            body.put_u8(0xdd);
            body.put_u32(items.len() as u32);
        }
    }
    for item in items {
        match item.len() {
            length @ 0..=0xff => {
                body.put_u8(0xc4);
                body.put_u8(length as u8);
            }
            length @ 0x100..=0xffff => {
                body.put_u8(0xc5);
                body.put_u16(length as u16);
            }
            length => {
                body.put_u8(0xc6);
                body.put_u32(length as u32);
            }
        }
        body.extend_from_slice(item);
    }
    body.freeze()
}

/// The items of a message, which are taken out of it one by one. They are parts of its body.
#[derive(Clone, Debug)]
pub(crate) enum Items {
    /// The body is the only item, until it is taken.
    One(Option<Bytes>),
    Several {
        rest: Bytes,
        left: u64,
    },
}

/// The body of a message is no list of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedItems;

impl Items {
    /// No items.
    pub(crate) fn none() -> Self {
        Self::One(None)
    }

    /// The item of a message of one.
    pub(crate) fn one(body: Bytes) -> Self {
        Self::One(Some(body))
    }

    /// The items of a message of several. Only their number is read here.
    ///
    /// # Errors
    /// The body is no array, or is too short for so many items.
    pub(crate) fn several(mut rest: Bytes) -> Result<Self, MalformedItems> {
        let left = match take_byte(&mut rest)? {
            first @ 0x90..=0x9f => u64::from(first & 0x0f),
            0xdc => take_number(&mut rest, 2)?,
            0xdd => take_number(&mut rest, 4)?,
            _ => return Err(MalformedItems),
        };
        // Each has a header of two bytes at least.
        if left.saturating_mul(2) > rest.len() as u64 {
            return Err(MalformedItems);
        }
        Ok(Self::Several { rest, left })
    }

    /// The number of items that are left.
    pub(crate) fn left(&self) -> u64 {
        match self {
            Self::One(item) => u64::from(item.is_some()),
            Self::Several { left, .. } => *left,
        }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// It is not there, or is no bin. No further items can be taken.
    pub(crate) fn take(&mut self) -> Result<Option<Bytes>, MalformedItems> {
        let (rest, left) = match self {
            Self::One(item) => return Ok(item.take()),
            Self::Several { left: 0, rest } if rest.is_empty() => return Ok(None),
            Self::Several { left: 0, .. } => return Err(MalformedItems),
            Self::Several { rest, left } => (rest, left),
        };
        let item = take_bin(rest)?;
        *left -= 1;
        Ok(Some(item))
    }
}

fn take_byte(rest: &mut Bytes) -> Result<u8, MalformedItems> {
    let byte = rest.first().copied().ok_or(MalformedItems)?;
    drop(rest.split_to(1));
    Ok(byte)
}

fn take_number(rest: &mut Bytes, bytes: usize) -> Result<u64, MalformedItems> {
    if rest.len() < bytes {
        return Err(MalformedItems);
    }
    let number = rest.split_to(bytes);
    Ok(number
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take_bin(rest: &mut Bytes) -> Result<Bytes, MalformedItems> {
    let length = match take_byte(rest)? {
        0xc4 => take_number(rest, 1)?,
        0xc5 => take_number(rest, 2)?,
        0xc6 => take_number(rest, 4)?,
        _ => return Err(MalformedItems),
    };
    let length = usize::try_from(length).map_err(|_| MalformedItems)?;
    if rest.len() < length {
        return Err(MalformedItems);
    }
    Ok(rest.split_to(length))
}

/// The body of a credit: the total number of items that are allowed, as a MessagePack integer.
pub(crate) fn encode_credit(total: u64) -> Result<Bytes, CodecError> {
    Codec::MsgPack.encode(&total)
}

/// The total of a credit. `None` if it is no unsigned integer.
pub(crate) fn decode_credit(body: &[u8]) -> Option<u64> {
    Codec::MsgPack.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut items: Items) -> Result<Vec<Bytes>, MalformedItems> {
        let mut taken = Vec::new();
        while let Some(item) = items.take()? {
            taken.push(item);
        }
        Ok(taken)
    }

    #[test]
    fn items_are_an_array_of_bin() {
        let items = [Bytes::from_static(b"\x01"), Bytes::new()];
        let body = encode_items(&items);
        assert_eq!(&body[..], b"\x92\xc4\x01\x01\xc4\x00");
        assert_eq!(all(Items::several(body).unwrap()).unwrap(), items);
        let one = Items::one(Bytes::from_static(b"\x01"));
        assert_eq!((one.left(), all(one).unwrap().len()), (1, 1));
    }

    #[test]
    fn lengths_of_all_widths_are_written_and_read() {
        for (count, size) in [
            (15, 255),
            (16, 256),
            (3, 0xffff),
            (2, 0x1_0000),
            (70_000, 1),
        ] {
            let items = vec![Bytes::from(vec![7; size]); count];
            let read = Items::several(encode_items(&items)).unwrap();
            assert_eq!(read.left(), count as u64);
            assert_eq!(all(read).unwrap(), items);
        }
    }

    #[test]
    fn other_bodies_are_malformed() {
        let read = |body: &'static [u8]| Items::several(Bytes::from_static(body)).and_then(all);
        for body in [
            &b""[..],
            b"\xc0",
            b"\x91",
            b"\x91\xa1a",
            b"\x91\xc4\x02a",
            b"\x92\xc4\x01a\xc4",
            b"\xdc\x00",
            b"\xdd\xff\xff\xff\xff\xc4\x00",
            b"\x91\xc4\x00\x00",
        ] {
            assert_eq!(read(body), Err(MalformedItems), "{body:?}");
        }
        assert_eq!(read(b"\x90"), Ok(Vec::new()));
    }

    #[test]
    fn a_credit_is_one_number() {
        for total in [0, 127, 300, u64::MAX] {
            assert_eq!(decode_credit(&encode_credit(total).unwrap()), Some(total));
        }
        assert_eq!(decode_credit(b"\xff"), None);
        assert_eq!(decode_credit(b""), None);
        assert_eq!(decode_credit(b"\x01\x02"), None);
    }

    proptest! {
        #[test]
        fn any_body_is_read(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Items::several(body.into()).and_then(all);
        }

        #[test]
        fn items_round_trip(items in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..300), 0..40)) {
            let items: Vec<Bytes> = items.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(Items::several(encode_items(&items)).and_then(all), Ok(items));
        }
    }
}
