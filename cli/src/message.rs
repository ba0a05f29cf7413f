//! Messages as JSON: their bodies, headers and times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lepus::Codec;
use lepus::amqp::{Table, Value};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Number, json};

use crate::json_text;

/// The most characters of a text in a table.
pub(crate) const MAX_SHOWN: usize = 200;

/// A view of a body that loses nothing ([`Codec::to_json`]). Without a content type, or with an unknown one, it is
/// shown as JSON or text if it is that, and otherwise as `{"$bytes":"<base 64>"}`.
pub(crate) fn body(content_type: Option<&str>, bytes: &[u8]) -> String {
    match content_type.and_then(Codec::from_content_type) {
        Some(codec) => codec.to_json(bytes),
        None => {
            let is_json = serde_json::from_slice::<&RawValue>(bytes).is_ok();
            let codec = match std::str::from_utf8(bytes) {
                Ok(_) if is_json => Codec::Json,
                Ok(_) => Codec::Text,
                Err(_) => Codec::Bytes,
            };
            codec.to_json(bytes)
        }
    }
}

/// A reply as JSON that loses nothing: JSON as the server sent it, and any other encoding as [`Codec::to_json`] shows
/// it.
///
/// # Errors
/// It is no value of its encoding: the reason.
pub(crate) fn reply(codec: Codec, bytes: &[u8]) -> Result<String, String> {
    if codec == Codec::Json {
        let json = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        json_text::check(json)?;
        return Ok(json.to_owned());
    }
    let view = codec.to_json(bytes);
    // No value has this view.
    if !view.starts_with("{\"$body\":") {
        return Ok(view);
    }
    Err(match codec.decode::<IgnoredAny>(bytes) {
        Err(error) => error.to_string(),
        Ok(_) => "it is nested too deep".to_owned(),
    })
}

/// JSON text, to be written as it is but on one line. A text that is not JSON becomes a string.
pub(crate) fn raw(json: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(json_text::compact(json))
        .or_else(|_| serde_json::value::to_raw_value(json))
        .ok()
}

/// Headers as a JSON object. Bytes are `{"$bytes":"<base 64>"}`.
pub(crate) fn headers(table: &Table) -> serde_json::Value {
    let fields = table
        .iter()
        .map(|(name, value)| (name.clone(), header(value)));
    serde_json::Value::Object(fields.collect::<Map<_, _>>())
}

fn header(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => match Number::from_f64(*value) {
            Some(number) => serde_json::Value::Number(number),
            None => json!(value.to_string()),
        },
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => {
            serde_json::from_str(&Codec::Bytes.to_json(bytes)).unwrap_or_default()
        }
        Value::Timestamp(seconds) => json!(rfc3339(*seconds)),
        Value::List(values) => values.iter().map(header).collect(),
        Value::Table(table) => headers(table),
        _ => serde_json::Value::Null,
    }
}

/// A header as text, for a comparison.
pub(crate) fn header_text(value: &Value) -> String {
    match header(value) {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Headers on one line: `tenant=hare size=640`.
pub(crate) fn headers_line(headers: &serde_json::Value) -> String {
    let fields = headers.as_object().into_iter().flatten();
    let shown = fields.map(|(name, value)| match value {
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    let shown: Vec<String> = shown.collect();
    shown.join(" ")
}

/// A body on one line, cut off if it is long.
pub(crate) fn body_line(body: Option<&RawValue>) -> String {
    shortened(body.map_or("", RawValue::get), MAX_SHOWN)
}

/// A text, cut off behind so many characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// A time in UTC, as RFC 3339 has it, to the second. `None` before 1970.
pub(crate) fn time(time: SystemTime) -> Option<String> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(rfc3339(since.as_secs()))
}

/// The time that has passed since then; zero if the clocks differ.
pub(crate) fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

/// The date is computed in eras of 400 years, which begin on the first of March of year 0.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_as_the_standard_has_it() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_796_083_199, "2026-11-30T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_body_is_shown_without_loss() {
        for (content_type, bytes, shown) in [
            (Some("application/json"), &b"{\"n\":1}"[..], "{\"n\":1}"),
            (
                Some("application/msgpack"),
                b"\xc4\x01a",
                "{\"$bytes\":\"YQ==\"}",
            ),
            (Some("text/plain"), b"7", "\"7\""),
            (None, b"7", "7"),
            (None, b"hare", "\"hare\""),
            (Some("image/png"), b"\xff", "{\"$bytes\":\"/w==\"}"),
            (Some("application/json"), b"{", "{\"$body\":\"ew==\"}"),
        ] {
            assert_eq!(body(content_type, bytes), shown);
        }
    }

    #[test]
    fn a_reply_is_shown_without_loss() {
        let long = r#"{"$bytes": 340282366920938463463374607431768211455}"#;
        for (codec, bytes, shown) in [
            (Codec::Json, long.as_bytes(), long),
            (Codec::Text, b"30", "\"30\""),
            (
                Codec::MsgPack,
                b"\x81\x01\xc4\x02\x00\xff",
                r#"{"$map":[[1,{"$bytes":"AP8="}]]}"#,
            ),
            (Codec::MsgPack, b"\xd4\x05\x00", r#"{"$ext":[5,"AA=="]}"#),
            (Codec::Bytes, b"\x00", r#"{"$bytes":"AA=="}"#),
        ] {
            assert_eq!(reply(codec, bytes).as_deref(), Ok(shown), "{codec:?}");
        }
        for (codec, bytes) in [
            (Codec::Json, &b"{"[..]),
            (Codec::Json, b"\"\xff\""),
            (Codec::MsgPack, b"\xc4"),
            (Codec::MsgPack, b"\x01\x02"),
            (Codec::MsgPack, &[0x91; 200]),
            (Codec::Text, b"\xff"),
        ] {
            assert!(reply(codec, bytes).is_err(), "{codec:?} {bytes:?}");
        }
    }

    #[test]
    fn what_is_json_stays_as_it_is() {
        let long = "12345678901234567890123456789";
        for (json, shown) in [
            (long, long),
            ("{\n  \"a b\": [1,\t2]\r\n}\n", "{\"a b\":[1,2]}"),
            ("no json", "\"no json\""),
        ] {
            assert_eq!(raw(json).unwrap().get(), shown, "{json}");
        }
    }
}
