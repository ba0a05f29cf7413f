//! Notation of values that JSON does not have, so that a MessagePack reply is shown without loss.
//!
//! | value | notation |
//! |---|---|
//! | bytes | `{"$bytes": "base64"}` |
//! | an extension type | `{"$ext": [type, "base64"]}` |
//! | a map with other keys than texts, or with a key twice | `{"$map": [[key, value], …]}` |
//! | NaN and the infinities | `{"$float": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | a text that is not UTF-8 | `{"$text": "base64"}` |
//!
//! A map of one text that begins with `$` would look like one of these, so it is written as a `$map`.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lepus::Codec;
use rmpv::Value;

use crate::json_text;

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 128;

/// An encoded value as JSON.
///
/// # Errors
/// It cannot be decoded: the reason.
pub(crate) fn to_json(codec: Codec, body: &[u8]) -> Result<String, String> {
    let text = || std::str::from_utf8(body).map_err(|error| error.to_string());
    match codec {
        Codec::Json => {
            let json = text()?;
            json_text::check(json)?;
            Ok(json.to_owned())
        }
        Codec::MsgPack => of_msgpack(body),
        Codec::Text => Ok(json_text::string(text()?)),
        _ => Ok(bytes("$bytes", body)),
    }
}

fn of_msgpack(mut body: &[u8]) -> Result<String, String> {
    let value = rmpv::decode::read_value_with_max_depth(&mut body, MAX_DEPTH);
    let value = value.map_err(|error| error.to_string())?;
    if !body.is_empty() {
        return Err(format!("{} bytes follow the value", body.len()));
    }
    Ok(json_of(&value))
}

fn json_of(value: &Value) -> String {
    match value {
        Value::Nil => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::F32(number) => float(f64::from(*number), number.to_string()),
        Value::F64(number) => float(*number, number.to_string()),
        Value::String(text) => match text.as_str() {
            Some(text) => json_text::string(text),
            None => bytes("$text", text.as_bytes()),
        },
        Value::Binary(value) => bytes("$bytes", value),
        Value::Ext(kind, value) => {
            let value = json_text::string(&STANDARD.encode(value));
            format!("{{\"$ext\":[{kind},{value}]}}")
        }
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(json_of).collect();
            format!("[{}]", values.join(","))
        }
        Value::Map(entries) => map(entries),
    }
}

fn map(entries: &[(Value, Value)]) -> String {
    let names: Option<HashSet<&str>> = entries.iter().map(|(key, _)| key.as_str()).collect();
    let is_plain = names.is_some_and(|names| {
        let looks_like_notation = names.len() == 1 && names.iter().any(|it| it.starts_with('$'));
        names.len() == entries.len() && !looks_like_notation
    });
    let pair = |(key, value): &(Value, Value)| match is_plain {
        true => format!("{}:{}", json_of(key), json_of(value)),
        false => format!("[{},{}]", json_of(key), json_of(value)),
    };
    let pairs: Vec<String> = entries.iter().map(pair).collect();
    let pairs = pairs.join(",");
    match is_plain {
        true => format!("{{{pairs}}}"),
        false => format!("{{\"$map\":[{pairs}]}}"),
    }
}

/// A number with its shortest digits, which are a number in JSON too.
fn float(number: f64, digits: String) -> String {
    let name = match number {
        number if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ if digits.contains('.') => return digits,
        // A float, and no integer.
        _ => return digits + ".0",
    };
    format!("{{\"$float\":\"{name}\"}}")
}

fn bytes(name: &str, value: &[u8]) -> String {
    let value = json_text::string(&STANDARD.encode(value));
    format!("{{\"{name}\":{value}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &Value) -> String {
        let mut body = Vec::new();
        rmpv::encode::write_value(&mut body, value).unwrap();
        to_json(Codec::MsgPack, &body).unwrap()
    }

    #[test]
    fn a_value_that_json_has_is_json() {
        let value = Value::Map(vec![
            ("n".into(), Value::from(u64::MAX)),
            (
                "list".into(),
                Value::Array(vec![
                    Value::Nil,
                    true.into(),
                    (-7).into(),
                    1.5.into(),
                    0.1_f32.into(),
                ]),
            ),
            ("text".into(), "häse".into()),
        ]);
        let json = r#"{"n":18446744073709551615,"list":[null,true,-7,1.5,0.1],"text":"häse"}"#;
        assert_eq!(shown(&value), json);
    }

    #[test]
    fn a_value_that_json_does_not_have_is_not_lost() {
        let text = |name: &str| Value::from(name);
        let cases = [
            (Value::Binary(vec![0, 255]), r#"{"$bytes":"AP8="}"#),
            (
                Value::Ext(-1, vec![0, 0, 0, 1]),
                r#"{"$ext":[-1,"AAAAAQ=="]}"#,
            ),
            (
                Value::Map(vec![(1.into(), text("a"))]),
                r#"{"$map":[[1,"a"]]}"#,
            ),
            (
                Value::Map(vec![(text("a"), 1.into()), (text("a"), 2.into())]),
                r#"{"$map":[["a",1],["a",2]]}"#,
            ),
            (
                Value::Map(vec![(text("$bytes"), text("AP8="))]),
                r#"{"$map":[["$bytes","AP8="]]}"#,
            ),
            (Value::F64(f64::NAN), r#"{"$float":"NaN"}"#),
            (Value::F32(f32::NEG_INFINITY), r#"{"$float":"-Infinity"}"#),
        ];
        for (value, json) in cases {
            assert_eq!(shown(&value), json);
        }
        // A text of one byte that is not UTF-8.
        assert_eq!(
            to_json(Codec::MsgPack, &[0xa1, 0xff]).unwrap(),
            r#"{"$text":"/w=="}"#
        );
    }

    #[test]
    fn other_encodings_are_shown_too() {
        let json = r#"{ "n": 340282366920938463463374607431768211455 }"#;
        assert_eq!(to_json(Codec::Json, json.as_bytes()).unwrap(), json);
        assert_eq!(to_json(Codec::Text, b"30").unwrap(), r#""30""#);
        assert_eq!(
            to_json(Codec::Bytes, b"\x00").unwrap(),
            r#"{"$bytes":"AA=="}"#
        );
    }

    #[test]
    fn a_body_that_cannot_be_decoded_is_an_error() {
        for (codec, body) in [
            (Codec::Json, &b"{"[..]),
            (Codec::Json, b"\"\xff\""),
            (Codec::MsgPack, b"\xc4"),
            (Codec::MsgPack, b"\x01\x02"),
            (Codec::MsgPack, &[0x91; 200]),
            (Codec::Text, b"\xff"),
        ] {
            assert!(to_json(codec, body).is_err(), "{codec:?} {body:?}");
        }
    }
}
