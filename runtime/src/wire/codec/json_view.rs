//! Views of encoded values as JSON text that lose nothing. `Codec::to_json` documents their form.

use std::collections::HashSet;

/// The view of a body that is not a value of its codec, or whose codec is not known.
pub(crate) fn undecoded(body: &[u8]) -> String {
    marked_bytes("$body", body)
}

/// JSON text as it is. An object that could be taken for a mark is wrapped.
///
/// `None` if it is not valid, as in the functions below.
pub(super) fn json(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let inside = without_space(text).strip_prefix('{').map(without_space);
    // A `$` may be escaped.
    let is_mark = inside.is_some_and(|it| it.starts_with("\"$") || it.starts_with("\"\\"));
    Some(if is_mark {
        format!("{{\"$json\":{text}}}")
    } else {
        text.to_owned()
    })
}

fn without_space(json: &str) -> &str {
    json.trim_start_matches([' ', '\t', '\r', '\n'])
}

/// One value of MessagePack, nested at most `max_depth` levels deep.
pub(super) fn msgpack(body: &[u8], max_depth: usize) -> Option<String> {
    let mut reader = MsgPackReader { rest: body };
    let mut out = String::new();
    reader.write(&mut out, max_depth)?;
    reader.rest.is_empty().then_some(out)
}

/// Whether an object with this one field could be taken for a mark.
fn is_reserved(name: &str) -> bool {
    name.starts_with('$')
}

/// UTF-8 as a JSON string.
pub(super) fn utf8(body: &[u8]) -> Option<String> {
    std::str::from_utf8(body).ok().map(text)
}

/// Bytes.
pub(super) fn bytes(body: &[u8]) -> String {
    marked_bytes("$bytes", body)
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn marked_bytes(mark: &str, bytes: &[u8]) -> String {
    format!("{{\"{mark}\":\"{}\"}}", base64(bytes))
}

/// Base 64 with the alphabet and the padding of RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) & 63;
            let letter = ALPHABET.get(at as usize).copied().unwrap_or(b'=');
            let is_padding = digit > chunk.len();
            out.push(char::from(if is_padding { b'=' } else { letter }));
        }
    }
    out
}

/// A finite number is written as such, with a point or an exponent, by which it differs from an integer.
/// `bits` are the digits of the bits, for a number that is not finite.
fn float(value: f64, bits: impl FnOnce() -> String) -> String {
    if value.is_finite() {
        return serde_json::Value::from(value).to_string();
    }
    let name = if value.is_nan() {
        format!("NaN {}", bits())
    } else if value > 0.0 {
        "Infinity".to_owned()
    } else {
        "-Infinity".to_owned()
    };
    format!("{{\"$float\":\"{name}\"}}")
}

/// A value of MessagePack, or the beginning of one that has parts.
enum MsgPackHead<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    F32(u32),
    F64(u64),
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    /// A list, and the number of its elements.
    List(usize),
    /// A map, and the number of its entries.
    Map(usize),
}

/// Reads MessagePack. Declared lengths are not trusted: nothing is allocated for them.
#[derive(Clone)]
struct MsgPackReader<'a> {
    rest: &'a [u8],
}

impl<'a> MsgPackReader<'a> {
    /// Writes the view of the next value. `None` if it is not valid or too deep.
    fn write(&mut self, out: &mut String, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.head()? {
            MsgPackHead::Nil => out.push_str("null"),
            MsgPackHead::Bool(value) => out.push_str(if value { "true" } else { "false" }),
            MsgPackHead::Int(value) => out.push_str(&value.to_string()),
            MsgPackHead::Uint(value) => out.push_str(&value.to_string()),
            MsgPackHead::F32(bits) => {
                let value = f64::from(f32::from_bits(bits));
                out.push_str(&float(value, || format!("{bits:08x}")));
            }
            MsgPackHead::F64(bits) => {
                out.push_str(&float(f64::from_bits(bits), || format!("{bits:016x}")));
            }
            MsgPackHead::Str(bytes) => out.push_str(&match std::str::from_utf8(bytes) {
                Ok(valid) => text(valid),
                Err(_) => marked_bytes("$text", bytes),
            }),
            MsgPackHead::Bin(bytes) => out.push_str(&self::bytes(bytes)),
            MsgPackHead::Ext(kind, bytes) => {
                out.push_str(&format!("{{\"$ext\":[{kind},\"{}\"]}}", base64(bytes)));
            }
            MsgPackHead::List(length) => {
                self.list(length, out, depth, |reader, out, depth| {
                    reader.write(out, depth)
                })?;
            }
            MsgPackHead::Map(length) => self.map(length, out, depth)?,
        }
        Some(())
    }

    fn list(
        &mut self,
        length: usize,
        out: &mut String,
        depth: usize,
        element: impl Fn(&mut Self, &mut String, usize) -> Option<()>,
    ) -> Option<()> {
        out.push('[');
        for at in 0..length {
            if at > 0 {
                out.push(',');
            }
            element(self, out, depth)?;
        }
        out.push(']');
        Some(())
    }

    fn map(&mut self, length: usize, out: &mut String, depth: usize) -> Option<()> {
        if !self.is_object(length)? {
            out.push_str("{\"$map\":");
            self.list(length, out, depth, |reader, out, depth| {
                out.push('[');
                reader.write(out, depth)?;
                out.push(',');
                reader.write(out, depth)?;
                out.push(']');
                Some(())
            })?;
            out.push('}');
            return Some(());
        }
        out.push('{');
        for at in 0..length {
            if at > 0 {
                out.push(',');
            }
            self.write(out, depth)?;
            out.push(':');
            self.write(out, depth)?;
        }
        out.push('}');
        Some(())
    }

    /// Whether the map that follows is a JSON object: its keys are texts, each occurs once, and it could
    /// not be taken for a mark.
    fn is_object(&self, length: usize) -> Option<bool> {
        let mut ahead = self.clone();
        let mut names = HashSet::new();
        for _ in 0..length {
            let MsgPackHead::Str(name) = ahead.head()? else {
                return Some(false);
            };
            let Ok(name) = std::str::from_utf8(name) else {
                return Some(false);
            };
            if !names.insert(name) || (length == 1 && is_reserved(name)) {
                return Some(false);
            }
            ahead.skip()?;
        }
        Some(true)
    }

    /// Skips a value, with all its parts.
    fn skip(&mut self) -> Option<()> {
        let mut left: usize = 1;
        while let Some(others) = left.checked_sub(1) {
            left = match self.head()? {
                MsgPackHead::List(length) => others.checked_add(length)?,
                MsgPackHead::Map(length) => others.checked_add(length.checked_mul(2)?)?,
                _ => others,
            };
        }
        Some(())
    }

    fn head(&mut self) -> Option<MsgPackHead<'a>> {
        let marker = self.take(1)?.first().copied()?;
        Some(match marker {
            0x00..=0x7f => MsgPackHead::Uint(marker.into()),
            0x80..=0x8f => MsgPackHead::Map(usize::from(marker & 0x0f)),
            0x90..=0x9f => MsgPackHead::List(usize::from(marker & 0x0f)),
            0xa0..=0xbf => MsgPackHead::Str(self.take(usize::from(marker & 0x1f))?),
            0xc0 => MsgPackHead::Nil,
            0xc1 => return None,
            0xc2 => MsgPackHead::Bool(false),
            0xc3 => MsgPackHead::Bool(true),
            0xc4 => MsgPackHead::Bin(self.sized(1)?),
            0xc5 => MsgPackHead::Bin(self.sized(2)?),
            0xc6 => MsgPackHead::Bin(self.sized(4)?),
            0xc7 => self.ext(1)?,
            0xc8 => self.ext(2)?,
            0xc9 => self.ext(4)?,
            0xca => MsgPackHead::F32(u32::from_be_bytes(self.array()?)),
            0xcb => MsgPackHead::F64(u64::from_be_bytes(self.array()?)),
            0xcc => MsgPackHead::Uint(u8::from_be_bytes(self.array()?).into()),
            0xcd => MsgPackHead::Uint(u16::from_be_bytes(self.array()?).into()),
            0xce => MsgPackHead::Uint(u32::from_be_bytes(self.array()?).into()),
            0xcf => MsgPackHead::Uint(u64::from_be_bytes(self.array()?)),
            0xd0 => MsgPackHead::Int(i8::from_be_bytes(self.array()?).into()),
            0xd1 => MsgPackHead::Int(i16::from_be_bytes(self.array()?).into()),
            0xd2 => MsgPackHead::Int(i32::from_be_bytes(self.array()?).into()),
            0xd3 => MsgPackHead::Int(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => {
                let length = 1 << (marker - 0xd4);
                let kind = i8::from_be_bytes(self.array()?);
                MsgPackHead::Ext(kind, self.take(length)?)
            }
            0xd9 => MsgPackHead::Str(self.sized(1)?),
            0xda => MsgPackHead::Str(self.sized(2)?),
            0xdb => MsgPackHead::Str(self.sized(4)?),
            0xdc => MsgPackHead::List(self.length(2)?),
            0xdd => MsgPackHead::List(self.length(4)?),
            0xde => MsgPackHead::Map(self.length(2)?),
            0xdf => MsgPackHead::Map(self.length(4)?),
            0xe0..=0xff => MsgPackHead::Int(i64::from(i8::from_be_bytes([marker]))),
        })
    }

    fn ext(&mut self, size_of_length: usize) -> Option<MsgPackHead<'a>> {
        let length = self.length(size_of_length)?;
        let kind = i8::from_be_bytes(self.array()?);
        Some(MsgPackHead::Ext(kind, self.take(length)?))
    }

    fn sized(&mut self, size_of_length: usize) -> Option<&'a [u8]> {
        let length = self.length(size_of_length)?;
        self.take(length)
    }

    /// A length of one, two or four bytes.
    fn length(&mut self, size: usize) -> Option<usize> {
        let bytes = self.take(size)?;
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        usize::try_from(length).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
