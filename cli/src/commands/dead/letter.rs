//! A dead letter as it is shown and compared.

use std::collections::HashMap;

use lepus::jobs::DeadLetter;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::condition::{Field, Value};
use crate::message;
use crate::output::Rows;

/// A dead letter, without its type.
#[derive(Serialize)]
pub(super) struct Letter {
    id: Option<String>,
    pub(super) reason: String,
    pub(super) attempts: u32,
    pub(super) task: Option<String>,
    pub(super) error: String,
    first_error: Option<String>,
    queue: String,
    failed_at: Option<String>,
    pushed_at: Option<String>,
    app: Option<String>,
    exchange: String,
    key: String,
    content_type: Option<String>,
    headers: serde_json::Value,
    pub(super) body: Option<Box<RawValue>>,
    #[serde(skip)]
    facts: Facts,
}

/// Facts that are compared, and not shown so.
#[derive(Default)]
struct Facts {
    failed_at: Option<std::time::SystemTime>,
    headers: lepus::amqp::Table,
}

impl Letter {
    pub(super) fn new(letter: &DeadLetter<IgnoredAny>) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            id: owned(letter.message_id()),
            reason: letter.reason().to_owned(),
            attempts: letter.attempt(),
            task: owned(letter.task()),
            error: letter.error().to_owned(),
            first_error: owned(letter.first_error()),
            queue: letter.source_queue().to_owned(),
            failed_at: letter.failed_at().and_then(message::time),
            pushed_at: letter.timestamp().and_then(message::time),
            app: owned(letter.app_id()),
            exchange: letter.exchange().to_owned(),
            key: letter.key().to_owned(),
            content_type: owned(letter.content_type()),
            headers: message::headers(letter.headers()),
            body: message::raw(&message::body(letter.content_type(), letter.bytes())),
            facts: Facts {
                failed_at: letter.failed_at(),
                headers: letter.headers().clone(),
            },
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The value of a field in a condition.
    pub(super) fn field(&self, field: &Field) -> Option<Value> {
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        match field {
            Field::Id => text(self.id.as_ref()?),
            Field::Reason => text(&self.reason),
            Field::Error => text(&self.error),
            Field::FirstError => text(self.first_error.as_ref()?),
            Field::Attempts => text(&self.attempts.to_string()),
            Field::Task => text(self.task.as_ref()?),
            Field::Queue => text(&self.queue),
            Field::Exchange => text(&self.exchange),
            Field::Key => text(&self.key),
            Field::ContentType => text(self.content_type.as_ref()?),
            Field::App => text(self.app.as_ref()?),
            Field::Age => Some(Value::Time(message::age(self.facts.failed_at?))),
            Field::Header(name) => text(&message::header_text(self.facts.headers.get(name)?)),
            Field::Body(path) => Some(Value::Text(self.body_at(path)?)),
        }
    }

    /// A part of the body as text: that of a JSON string, and otherwise its JSON as it is written.
    fn body_at(&self, path: &[String]) -> Option<String> {
        let mut part = self.body.as_deref()?;
        for name in path {
            let json = part.get();
            part = match json.as_bytes().first()? {
                b'{' => {
                    let fields: HashMap<String, &RawValue> = serde_json::from_str(json).ok()?;
                    fields.get(name).copied()?
                }
                b'[' => {
                    let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
                    elements.get(name.parse::<usize>().ok()?).copied()?
                }
                _ => return None,
            };
        }
        let json = part.get();
        Some(serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()))
    }

    /// The time since it died, as `3 h`.
    fn age(&self) -> String {
        let at = self.facts.failed_at.map(message::age);
        at.map_or_else(|| "-".to_owned(), crate::duration::show)
    }
}

/// A line for each letter.
pub(super) fn table(letters: &[Letter]) -> Rows {
    let mut rows = Rows::new(&["ID", "REASON", "#ATTEMPTS", "AGE", "TASK", "ERROR", "BODY"]);
    for letter in letters {
        rows.row([
            letter.id().unwrap_or("-").to_owned(),
            letter.reason.clone(),
            letter.attempts.to_string(),
            letter.age(),
            letter.task.clone().unwrap_or_else(|| "-".to_owned()),
            message::shortened(&letter.error, message::MAX_SHOWN),
            message::body_line(letter.body.as_deref()),
        ]);
    }
    rows
}

/// A line for each field.
pub(super) fn details(letter: &Letter) -> Rows {
    let mut rows = Rows::new(&["FIELD", "VALUE"]);
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            rows.row([name, value]);
        }
    };
    field("id", letter.id());
    field("reason", Some(&letter.reason));
    field("attempts", Some(&letter.attempts.to_string()));
    field("task", letter.task.as_deref());
    field("error", Some(&letter.error));
    field("first error", letter.first_error.as_deref());
    field("queue", Some(&letter.queue));
    field("failed at", letter.failed_at.as_deref());
    field("pushed at", letter.pushed_at.as_deref());
    field("app", letter.app.as_deref());
    field("exchange", Some(&letter.exchange));
    field("key", Some(&letter.key));
    field("content type", letter.content_type.as_deref());
    field("headers", Some(&message::headers_line(&letter.headers)));
    field("body", letter.body.as_deref().map(RawValue::get));
    rows
}
