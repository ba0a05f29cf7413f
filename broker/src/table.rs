//! Encoding of tables (arguments, headers), as RabbitMQ reads and writes them.
//!
//! The types are those of `amq-protocol`, but its parser differs from RabbitMQ: it refuses keys that are
//! not UTF-8 (see `octets.rs`), it keeps the last of several entries with the same key and not the
//! first, and it does not limit the depth of nested tables.

use amq_protocol::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString};

use crate::octets;

/// The limit of nested tables and arrays. The parser is recursive, and without a limit a frame of
/// nested arrays would overflow the stack.
const MAX_DEPTH: usize = 64;

/// The error for octets that are not a table, or a table that is nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed table")]
pub(crate) struct Malformed;

/// Reads a table without its length.
///
/// A key that is not UTF-8 and takes more than 255 octets as text is left out: the broker compares no
/// such key with anything.
pub(crate) fn parse(octets: &[u8]) -> Result<FieldTable, Malformed> {
    fields(octets, 0)
}

/// Reads a table with its length. No octets may follow.
pub(crate) fn parse_with_length(octets: &[u8]) -> Result<FieldTable, Malformed> {
    let mut reader = Reader(octets);
    let table = reader.long()?;
    reader.end()?;
    parse(table)
}

fn fields(octets: &[u8], depth: usize) -> Result<FieldTable, Malformed> {
    let mut reader = Reader(octets);
    let mut table = FieldTable::default();
    while !reader.0.is_empty() {
        let [length] = reader.fixed()?;
        let key = octets::decode(reader.take(length.into())?);
        let value = reader.value(depth)?;
        if let Ok(key) = ShortString::try_new(key)
            && !table.contains_key(key.as_str())
        {
            table.insert(key, value);
        }
    }
    Ok(table)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn end(&self) -> Result<(), Malformed> {
        self.0.is_empty().then_some(()).ok_or(Malformed)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Reads octets that are preceded by their number.
    fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let length = u32::from_be_bytes(self.fixed()?);
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    fn value(&mut self, depth: usize) -> Result<AMQPValue, Malformed> {
        let [kind] = self.fixed()?;
        Ok(match kind {
            b't' => AMQPValue::Boolean(self.fixed::<1>()? != [0]),
            b'b' => AMQPValue::ShortShortInt(i8::from_be_bytes(self.fixed()?)),
            b'B' => AMQPValue::ShortShortUInt(u8::from_be_bytes(self.fixed()?)),
            b's' => AMQPValue::ShortInt(i16::from_be_bytes(self.fixed()?)),
            b'u' => AMQPValue::ShortUInt(u16::from_be_bytes(self.fixed()?)),
            b'I' => AMQPValue::LongInt(i32::from_be_bytes(self.fixed()?)),
            b'i' => AMQPValue::LongUInt(u32::from_be_bytes(self.fixed()?)),
            b'l' | b'L' => AMQPValue::LongLongInt(i64::from_be_bytes(self.fixed()?)),
            b'T' => AMQPValue::Timestamp(u64::from_be_bytes(self.fixed()?)),
            b'f' => {
                let float = f32::from_be_bytes(self.fixed()?);
                // Erlang has neither infinities nor NaN.
                AMQPValue::Float(Some(float).filter(|f| f.is_finite()).ok_or(Malformed)?)
            }
            b'd' => {
                let float = f64::from_be_bytes(self.fixed()?);
                AMQPValue::Double(Some(float).filter(|f| f.is_finite()).ok_or(Malformed)?)
            }
            b'D' => AMQPValue::DecimalValue(DecimalValue {
                scale: u8::from_be_bytes(self.fixed()?),
                value: u32::from_be_bytes(self.fixed()?),
            }),
            b'S' => AMQPValue::LongString(self.long()?.to_vec().into()),
            b'x' => AMQPValue::ByteArray(self.long()?.to_vec().into()),
            b'V' => AMQPValue::Void,
            b'F' | b'A' if depth >= MAX_DEPTH => return Err(Malformed),
            b'F' => AMQPValue::FieldTable(fields(self.long()?, depth + 1)?),
            b'A' => {
                let mut elements = Reader(self.long()?);
                let mut array = FieldArray::default();
                while !elements.0.is_empty() {
                    array.push(elements.value(depth + 1)?);
                }
                AMQPValue::FieldArray(array)
            }
            _ => return Err(Malformed),
        })
    }
}

/// Appends a table with its length.
pub(crate) fn put(out: &mut Vec<u8>, table: &FieldTable) {
    put_measured(out, |out| {
        for (key, value) in table {
            put_short(out, &octets::encode(key.as_str()));
            put_value(out, value);
        }
    });
}

fn put_value(out: &mut Vec<u8>, value: &AMQPValue) {
    out.push(match value {
        // AMQP has no type tag for a short string in a table.
        AMQPValue::ShortString(_) => b'S',
        other => u8::try_from(u32::from(other.get_type().get_id())).unwrap_or(b'V'),
    });
    match value {
        AMQPValue::Boolean(flag) => out.push(u8::from(*flag)),
        AMQPValue::ShortShortInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::ShortShortUInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::ShortInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::ShortUInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::LongInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::LongUInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::LongLongInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::Float(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::Double(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::Timestamp(n) => out.extend_from_slice(&n.to_be_bytes()),
        AMQPValue::DecimalValue(decimal) => {
            out.push(decimal.scale);
            out.extend_from_slice(&decimal.value.to_be_bytes());
        }
        AMQPValue::ShortString(text) => put_measured(out, |out| {
            out.extend_from_slice(text.as_str().as_bytes());
        }),
        AMQPValue::LongString(text) => put_measured(out, |out| {
            out.extend_from_slice(text.as_bytes());
        }),
        AMQPValue::ByteArray(octets) => put_measured(out, |out| {
            out.extend_from_slice(octets.as_slice());
        }),
        AMQPValue::FieldArray(array) => put_measured(out, |out| {
            for value in array.as_slice() {
                put_value(out, value);
            }
        }),
        AMQPValue::FieldTable(table) => put(out, table),
        AMQPValue::Void => {}
    }
}

/// Appends a short string.
pub(crate) fn put_short(out: &mut Vec<u8>, octets: &[u8]) {
    let length = u8::try_from(octets.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(octets.iter().take(length.into()));
}

/// Appends octets, preceded by their number.
fn put_measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of every type, with keys and values that are not UTF-8 among them.
    const EVERY_KIND: &[u8] = b"\x01At\x01\x01Bb\xff\x01CB\xff\x01Ds\xff\xfe\x01Eu\xff\xfe\x01FI\xff\xff\xff\xfe\
        \x01Gi\xff\xff\xff\xfe\x01Hl\xff\xff\xff\xff\xff\xff\xff\xfe\x01IT\0\0\0\0\0\0\0\x09\x01Jf\x3f\x80\0\0\
        \x01Kd\x3f\xf0\0\0\0\0\0\0\x01LD\x02\0\0\0\x07\x01MS\0\0\0\x02a\xff\x01Nx\0\0\0\x01\xfe\x01OV\
        \x01PF\0\0\0\x05\x02\xff\xfet\0\x01QA\0\0\0\x0aVF\0\0\0\x04\x01\xfft\x01";

    #[test]
    fn every_kind_is_written_as_it_was_read() {
        let table = parse(EVERY_KIND).unwrap();
        let mut written = Vec::new();
        put(&mut written, &table);
        assert_eq!(written[4..], *EVERY_KIND);
        assert_eq!(parse_with_length(&written), Ok(table));
    }

    #[test]
    fn the_first_of_several_counts() {
        let table = parse(b"\x01kt\x01\x01kI\0\0\0\x02").unwrap();
        assert_eq!(table.inner()["k"], AMQPValue::Boolean(true));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for bad in [
            &b"\x01"[..],
            b"\x01k",
            b"\x01kQ",
            b"\x01kU\0\x01",
            b"\x01kS\0\0\0\x02a",
            b"\x01kI\0\0\0",
            b"\x01kf\x7f\x80\0\0",
            b"\x01kd\x7f\xf8\0\0\0\0\0\0",
            b"\x01kF\0\0\0\x01\x01",
            b"\x01kA\0\0\0\x01Q",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{bad:?}");
        }
        assert_eq!(parse_with_length(b"\0\0\0\0x"), Err(Malformed));
        assert_eq!(parse_with_length(b"\0\0\0\x01"), Err(Malformed));
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |levels| {
            let mut octets = Vec::new();
            for _ in 0..levels {
                let mut outer = vec![b'A'];
                put_measured(&mut outer, |out| out.extend_from_slice(&octets));
                octets = outer;
            }
            [&b"\x01k"[..], &octets].concat()
        };
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(parse(&nested(MAX_DEPTH + 1)), Err(Malformed));
        assert_eq!(parse(&nested(20_000)), Err(Malformed));
    }
}
