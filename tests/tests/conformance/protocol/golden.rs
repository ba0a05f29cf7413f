//! The golden blocks of docs/protocol.md, and how what was seen is compared with them.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lepus_tests::source::workspace;
use std::collections::BTreeMap;

/// A fenced block whose language is `golden`.
#[derive(Debug)]
pub struct Block {
    pub name: String,
    lines: Vec<String>,
}

/// All blocks, in their order.
pub fn blocks() -> Vec<Block> {
    let path = workspace().join("docs/protocol.md");
    let text = std::fs::read_to_string(&path).expect("the protocol is written down");
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line.strip_prefix("```golden ")) {
            (false, Some(name)) => {
                let name = name.trim().to_owned();
                blocks.push(Block {
                    name,
                    lines: Vec::new(),
                });
                inside = true;
            }
            (true, _) if line == "```" => inside = false,
            (true, _) => blocks
                .last_mut()
                .expect("a block has begun")
                .lines
                .push(line.to_owned()),
            (false, None) => {}
        }
    }
    blocks
}

/// The one of this name.
pub fn block(name: &str) -> Block {
    let mut found = blocks();
    found.retain(|block| block.name == name);
    assert_eq!(found.len(), 1, "one golden block `{name}`");
    found.remove(0)
}

impl Block {
    /// Its lines but for comments.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.lines.iter().map(String::as_str);
        lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    }

    /// Its lines as rows of cells.
    pub fn rows(&self) -> impl Iterator<Item = Vec<&str>> {
        self.lines()
            .map(|line| line.split('|').map(str::trim).collect())
    }
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0, "whole bytes: {text}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// A message, as a block has it or as a consumer saw it: name of the property to value.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The text of a body in JSON, with placeholders; the body has them filled in.
    json: Option<String>,
}

impl Message {
    pub fn golden(name: &str) -> Self {
        let block = block(name);
        let mut fields = BTreeMap::new();
        let (mut body, mut json) = (None, None);
        for line in block.lines() {
            let (key, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("{name}: {line}"));
            let value = value.trim();
            if key == "body" {
                body = Some(hex(value));
            } else if key == "json" {
                body = Some(filled(value).into_bytes());
                json = Some(value.to_owned());
            } else {
                let before = fields.insert(key.to_owned(), value.to_owned());
                assert_eq!(before, None, "{name}: {key} twice");
            }
        }
        let body = body.unwrap_or_else(|| panic!("{name} has no body"));
        Self { fields, body, json }
    }

    /// A message that arrived, the namespace taken off.
    pub fn seen(delivery: &Delivery, namespace: &str) -> Self {
        let prefix = format!("{namespace}.");
        let plain = |text: &str| text.strip_prefix(&prefix).unwrap_or(text).to_owned();
        let mut fields = BTreeMap::from([
            ("exchange".to_owned(), plain(delivery.exchange.as_str())),
            (
                "routing-key".to_owned(),
                plain(delivery.routing_key.as_str()),
            ),
        ]);
        let properties = &delivery.properties;
        let texts = [
            ("content-type", properties.content_type()),
            ("content-encoding", properties.content_encoding()),
            ("correlation-id", properties.correlation_id()),
            ("reply-to", properties.reply_to()),
            ("expiration", properties.expiration()),
            ("message-id", properties.message_id()),
            ("type", properties.kind()),
            ("user-id", properties.user_id()),
            ("app-id", properties.app_id()),
            ("cluster-id", properties.cluster_id()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                fields.insert(name.to_owned(), plain(text.as_str()));
            }
        }
        let mut number = |name: &str, number: Option<u64>| {
            if let Some(number) = number {
                fields.insert(name.to_owned(), number.to_string());
            }
        };
        number("delivery-mode", properties.delivery_mode().map(u64::from));
        number("priority", properties.priority().map(u64::from));
        number("timestamp", *properties.timestamp());
        let headers = properties.headers().iter().flat_map(FieldTable::inner);
        // The broker's note, not the sender's.
        for (name, value) in headers.filter(|(name, _)| name.as_str() != "x-delivery-count") {
            let text = match value {
                AMQPValue::LongString(text) => format!("S {}", plain(&text.to_string())),
                other => typed(other),
            };
            fields.insert(format!("header {name}"), text);
        }
        Self {
            fields,
            body: delivery.data.clone(),
            json: None,
        }
    }

    /// Panics unless `seen` is this message, placeholders filled in somehow.
    #[track_caller]
    pub fn assert_is(&self, seen: &Self) {
        for (key, pattern) in &self.fields {
            let Some(text) = seen.fields.get(key) else {
                panic!("no {key} in {seen:#?}");
            };
            assert!(matches(pattern, text), "{key}: {text:?} is not {pattern:?}");
        }
        let more: Vec<_> = seen
            .fields
            .iter()
            .filter(|(key, _)| !self.fields.contains_key(*key))
            .collect();
        assert!(more.is_empty(), "not written down: {more:?}");
        if let Some(json) = &self.json {
            let text = String::from_utf8_lossy(&seen.body);
            assert!(matches(json, &text), "{text} is not {json}");
            return;
        }
        assert_eq!(
            String::from_utf8_lossy(&self.body),
            String::from_utf8_lossy(&seen.body)
        );
        assert_eq!(self.body, seen.body);
    }

    /// The properties, for a peer that sends the message; placeholders filled in.
    pub fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default();
        let mut headers = FieldTable::default();
        for (key, value) in &self.fields {
            let value = filled(value);
            let text = value.as_str();
            let number = || text.parse().expect("a number");
            properties = match key.as_str() {
                "exchange" | "routing-key" => properties,
                "content-type" => properties.with_content_type(text.into()),
                "correlation-id" => properties.with_correlation_id(text.into()),
                "reply-to" => properties.with_reply_to(text.into()),
                "expiration" => properties.with_expiration(text.into()),
                "message-id" => properties.with_message_id(text.into()),
                "type" => properties.with_type(text.into()),
                "app-id" => properties.with_app_id(text.into()),
                "delivery-mode" => properties.with_delivery_mode(number() as u8),
                "priority" => properties.with_priority(number() as u8),
                "timestamp" => properties.with_timestamp(number()),
                header => {
                    let name = header.strip_prefix("header ");
                    let name = name.unwrap_or_else(|| panic!("no property {header}"));
                    headers.insert(name.into(), untyped(text));
                    properties
                }
            };
        }
        if headers.inner().is_empty() {
            properties
        } else {
            properties.with_headers(headers)
        }
    }
}

fn typed(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongLongInt(number) => format!("l {number}"),
        AMQPValue::Timestamp(seconds) => format!("T {seconds}"),
        AMQPValue::ByteArray(bytes) => {
            let bytes = bytes.as_slice().iter();
            let digits: Vec<_> = bytes.map(|byte| format!("{byte:02x}")).collect();
            format!("x {}", digits.join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// `S text`, `l number`, `t true`, `T seconds`, `x bytes` as AMQP carries it.
pub fn untyped(text: &str) -> AMQPValue {
    let (kind, value) = text.split_once(' ').unwrap_or((text, ""));
    match kind {
        "S" => AMQPValue::LongString(value.into()),
        "l" => AMQPValue::LongLongInt(value.parse().expect("a number")),
        "t" => AMQPValue::Boolean(value == "true"),
        "T" => AMQPValue::Timestamp(value.parse().expect("a time")),
        "x" => AMQPValue::ByteArray(hex(value).into()),
        _ => panic!("no such type: {text}"),
    }
}

const PLACEHOLDERS: [(&str, &str); 7] = [
    ("<time>", "2026-11-30T12:00:00Z"),
    ("<id>", "0123456789ABCDEFGHIJkl"),
    ("<mark>", "0123456ABab"),
    ("<n>", "7"),
    ("<ms>", "9000"),
    ("<seconds>", "1700000000"),
    ("<name>", "peer"),
];

fn filled(pattern: &str) -> String {
    PLACEHOLDERS
        .iter()
        .fold(pattern.to_owned(), |text, (placeholder, value)| {
            text.replace(placeholder, value)
        })
}

/// Whether a text is what a pattern with placeholders says.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some(start) = pattern.find('<') else {
        return pattern == text;
    };
    let end = pattern.find('>').expect("a closed placeholder") + 1;
    let (literal, placeholder, rest) = (&pattern[..start], &pattern[start..end], &pattern[end..]);
    let Some(text) = text.strip_prefix(literal) else {
        return false;
    };
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    ends.filter(|end| stands_for(placeholder, &text[..*end]))
        .any(|end| matches(rest, &text[end..]))
}

fn stands_for(placeholder: &str, text: &str) -> bool {
    let all = |class: fn(char) -> bool| text.chars().all(class);
    match placeholder {
        "<id>" => text.len() == 22 && all(|c| c.is_ascii_alphanumeric()),
        "<mark>" => text.len() == 11 && all(|c| c.is_ascii_alphanumeric()),
        "<n>" | "<ms>" | "<seconds>" => all(|c| c.is_ascii_digit()),
        "<time>" => {
            let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
            text.chars().map(digits).eq("0000-00-00T00:00:00Z".chars())
        }
        "<name>" => true,
        other => panic!("no such placeholder: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_what_it_says() {
        assert!(matches("lepus.reply.<id>", &filled("lepus.reply.<id>")));
        assert!(!matches("lepus.reply.<id>", "lepus.reply.7"));
        assert!(matches("<id>-<n>", &filled("<id>-<n>")));
        assert!(!matches("<n>", "seven") && !matches("<n>", ""));
        assert!(!matches("S <name>", "S "));
    }

    #[test]
    #[should_panic(expected = "not written down")]
    fn a_property_more_is_seen() {
        let golden = Message::golden("rpc.reply");
        let mut seen = Message {
            fields: golden
                .fields
                .iter()
                .map(|(key, value)| (key.clone(), filled(value)))
                .collect(),
            body: golden.body.clone(),
            json: None,
        };
        golden.assert_is(&seen);
        seen.fields.insert("priority".into(), "1".into());
        golden.assert_is(&seen);
    }
}
