//! Head of a reply.

use std::borrow::Cow;
use std::time::Duration;

use super::property::{milliseconds, non_empty, truncated};
use super::request::{CALLS_TYPE, is_protocol_type, lists};
use crate::wire::message::Properties;
use crate::wire::status::{Code, MAX_DETAILS, Status};
use crate::wire::value::{Table, Value};

/// Header of a reply that is not a success: a status code, or [`APPLICATION`].
pub(super) const STATUS: &str = "rpc-status";
/// Header of a reply with a status code: a text for people.
pub(super) const MESSAGE: &str = "rpc-message";
/// Header of a reply with a status code: the time after which the caller may try again, in milliseconds.
pub(super) const RETRY_AFTER: &str = "rpc-retry-after";
/// Header of a reply with a status code: bytes for programs, at most [`MAX_DETAILS`].
pub(super) const DETAILS: &str = "rpc-details";
/// The status of a reply whose body is the method's own error.
const APPLICATION: &str = "application";
/// `type` of a reply whose body is a batch of replies.
const REPLIES_TYPE: &str = "lepus.replies/1";

/// The status of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplyStatus {
    /// The body is the value.
    Success,
    /// The body is the method's own error.
    Application,
    /// There is no body; the status tells why.
    Failed(Status),
}

impl ReplyStatus {
    /// The values of the headers [`STATUS`] and [`MESSAGE`]. A success has neither.
    pub(crate) fn parts(&self) -> (Option<&str>, Option<Cow<'_, str>>) {
        match self {
            Self::Success => (None, None),
            Self::Application => (Some(APPLICATION), None),
            Self::Failed(status) => (
                Some(status.code().as_str()),
                Some(truncated(status.message())),
            ),
        }
    }

    /// Whether the status has one of the headers [`RETRY_AFTER`] and [`DETAILS`].
    pub(crate) fn has_headers(&self) -> bool {
        match self {
            Self::Success | Self::Application => false,
            Self::Failed(status) => status.retry_after().is_some() || !status.details().is_empty(),
        }
    }

    /// Adds the headers [`RETRY_AFTER`] and [`DETAILS`] of a status that has them.
    pub(crate) fn add_headers(&self, headers: &mut Table) {
        let Self::Failed(status) = self else { return };
        if let Some(delay) = status.retry_after() {
            let delay = i64::from(milliseconds(delay));
            headers.insert(RETRY_AFTER.into(), delay.into());
        }
        if !status.details().is_empty() {
            headers.insert(DETAILS.into(), status.details().to_vec().into());
        }
    }

    /// Reads the headers [`STATUS`] and [`MESSAGE`], and takes [`RETRY_AFTER`] and [`DETAILS`] out of the
    /// others. A status that is not known becomes [`Code::Unknown`], with its name in the message.
    pub(crate) fn from_parts(
        name: Option<&str>,
        message: Option<&str>,
        headers: &mut Table,
    ) -> Self {
        let (retry_after, details) = (headers.remove(RETRY_AFTER), headers.remove(DETAILS));
        let code = match name {
            None | Some("ok") => return Self::Success,
            Some(APPLICATION) => return Self::Application,
            Some(code) => code,
        };
        let message = message.unwrap_or_default();
        let mut status = match code.parse::<Code>() {
            Ok(code) => Status::new(code, message),
            Err(_) => Status::new(Code::Unknown, format!("{code}: {message}")),
        };
        if let Some(delay) = retry_after.as_ref().and_then(delay_of) {
            status = status.with_retry_after(delay);
        }
        if let Some(details) = details.as_ref().and_then(details_of) {
            status = status.with_details(details);
        }
        Self::Failed(status)
    }
}

/// The time in a header [`RETRY_AFTER`], at most the longest that Lepus writes. `None` for a value that is no
/// time: it is ignored, since the call has ended without it.
fn delay_of(value: &Value) -> Option<Duration> {
    let millis = u64::try_from(value.as_int()?).ok()?;
    Some(Duration::from_millis(millis.min(u32::MAX.into())))
}

/// The bytes in a header [`DETAILS`]; also of a text, because some AMQP clients can write no other. `None` for
/// another value, and for one that is longer than [`MAX_DETAILS`]: it is ignored.
fn details_of(value: &Value) -> Option<&[u8]> {
    let details = match value {
        Value::Bytes(bytes) => bytes,
        Value::Text(text) => text.as_bytes(),
        _ => return None,
    };
    (details.len() <= MAX_DETAILS).then_some(details)
}

/// The form of a reply's body, and whether the server accepts batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyForm {
    /// One reply.
    #[default]
    Single,
    /// One reply, of a server that was asked and accepts batches. Its `type` is a comma-separated list of the
    /// tokens that the server accepts, [`CALLS_TYPE`] among them.
    AcceptsBatches,
    /// A batch of replies ([`batch`](crate::wire::batch)). Its `type` is [`REPLIES_TYPE`].
    Batch,
    /// A `type` of another version of the protocol.
    Unknown,
}

/// The head of a reply: all but its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReplyHead {
    pub(crate) status: ReplyStatus,
    pub(crate) form: ReplyForm,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) content_type: Option<String>,
    pub(crate) server: Option<String>,
    /// Those that layers of the server have added.
    pub(crate) headers: Table,
}

impl ReplyHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        let (status, message) = self.status.parts();
        if let Some(status) = status {
            headers.insert(STATUS.into(), status.into());
        }
        if let Some(message) = message {
            headers.insert(MESSAGE.into(), message.as_ref().into());
        }
        self.status.add_headers(&mut headers);
        let kind = match self.form {
            ReplyForm::Single | ReplyForm::Unknown => None,
            ReplyForm::AcceptsBatches => Some(CALLS_TYPE),
            ReplyForm::Batch => Some(REPLIES_TYPE),
        };
        Properties {
            content_type: self.content_type,
            headers,
            correlation_id: self.correlation_id,
            kind: kind.map(str::to_owned),
            app_id: self.server,
            ..Properties::default()
        }
    }

    pub(crate) fn from_properties(properties: Properties) -> Self {
        let mut headers = properties.headers;
        // A reply has no trace: to its caller, these are headers as others are.
        properties.trace.move_into(&mut headers);
        let (status, message) = (headers.remove(STATUS), headers.remove(MESSAGE));
        let form = match properties.kind.as_deref() {
            Some(REPLIES_TYPE) => ReplyForm::Batch,
            Some(tokens) if lists(tokens, CALLS_TYPE) => ReplyForm::AcceptsBatches,
            Some(kind) if is_protocol_type(kind) => ReplyForm::Unknown,
            _ => ReplyForm::Single,
        };
        Self {
            status: ReplyStatus::from_parts(
                status.as_ref().and_then(Value::as_str),
                message.as_ref().and_then(Value::as_str),
                &mut headers,
            ),
            form,
            correlation_id: properties.correlation_id,
            content_type: non_empty(properties.content_type),
            server: properties.app_id,
            headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_without_headers_is_a_success() {
        let head = ReplyHead::from_properties(Properties::default());
        assert_eq!(head.status, ReplyStatus::Success);
    }

    #[test]
    fn statuses_travel_as_headers() {
        let status = Status::new(Code::Unimplemented, "no method `fob`");
        let head = ReplyHead {
            form: ReplyForm::AcceptsBatches,
            status: ReplyStatus::Failed(status),
            correlation_id: Some(b"42".to_vec()),
            content_type: None,
            server: None,
            headers: Table::from([("x-cache".to_owned(), Value::from("hit"))]),
        };
        let properties = head.clone().into_properties();
        assert_eq!(
            properties.headers["rpc-status"],
            Value::from("unimplemented")
        );
        assert_eq!(
            properties.headers["rpc-message"],
            Value::from("no method `fob`")
        );
        assert_eq!(ReplyHead::from_properties(properties), head);
    }

    #[test]
    fn the_parts_of_a_status_for_programs_travel_as_headers() {
        let status = Status::new(Code::ResourceExhausted, "busy")
            .with_retry_after(Duration::from_micros(1_400_001))
            .with_details(b"\xff\x00");
        let head = ReplyHead {
            status: ReplyStatus::Failed(status.clone()),
            form: ReplyForm::Single,
            correlation_id: None,
            content_type: None,
            server: None,
            headers: Table::from([("x-cache".to_owned(), Value::from("hit"))]),
        };
        let properties = head.clone().into_properties();
        assert_eq!(properties.headers["rpc-retry-after"], Value::Int(1401));
        let details = Value::Bytes(b"\xff\x00".to_vec());
        assert_eq!(properties.headers["rpc-details"], details);
        let status = status.with_retry_after(Duration::from_millis(1401));
        let expected = ReplyHead {
            status: ReplyStatus::Failed(status),
            ..head
        };
        assert_eq!(ReplyHead::from_properties(properties), expected);
    }

    #[test]
    fn parts_of_a_status_that_make_no_sense_are_ignored() {
        let read = |name: Option<&str>, retry_after: Value, details: Value| {
            let mut headers = Table::from([
                ("rpc-retry-after".to_owned(), retry_after),
                ("rpc-details".to_owned(), details),
            ]);
            let status = ReplyStatus::from_parts(name, Some("busy"), &mut headers);
            assert!(headers.is_empty(), "they are no headers of a layer");
            status
        };
        let nothing = Status::new(Code::Unavailable, "busy");
        for retry_after in [
            Value::Int(-1),
            Value::Int(i64::MIN),
            "1500".into(),
            Value::Float(1.5),
            Value::Null,
            Value::Timestamp(7),
        ] {
            for details in [
                Value::Null,
                Value::Int(7),
                vec![0; MAX_DETAILS + 1].into(),
                "a".repeat(MAX_DETAILS + 1).into(),
                Table::new().into(),
            ] {
                let status = read(Some("unavailable"), retry_after.clone(), details);
                assert_eq!(status, ReplyStatus::Failed(nothing.clone()));
            }
        }
        // A text is bytes as well, and a longer time is the longest one.
        let status = read(Some("unavailable"), Value::Int(i64::MAX), "store-7".into());
        let longest = Duration::from_millis(u32::MAX.into());
        let expected = nothing.with_retry_after(longest).with_details("store-7");
        assert_eq!(status, ReplyStatus::Failed(expected));
        // Beside no status, and beside the method's own error, they have no meaning.
        let status = read(None, Value::Int(7), "store-7".into());
        assert_eq!(status, ReplyStatus::Success);
        let status = read(Some("application"), Value::Int(7), "store-7".into());
        assert_eq!(status, ReplyStatus::Application);
    }

    #[test]
    fn the_form_is_read_from_the_type() {
        let form = |kind: &str| {
            let properties = Properties {
                kind: Some(kind.to_owned()),
                ..Properties::default()
            };
            ReplyHead::from_properties(properties).form
        };
        for kind in ["lepus.calls/1", "lepus.stream/1, lepus.calls/1"] {
            assert_eq!(form(kind), ReplyForm::AcceptsBatches, "{kind}");
        }
        for kind in [
            "lepus.calls/2",
            "lepus.replies/2",
            "lepus.replies/1, lepus.other/1",
        ] {
            assert_eq!(form(kind), ReplyForm::Unknown, "{kind}");
        }
        assert_eq!(form("lepus.replies/1"), ReplyForm::Batch);
        assert_eq!(form("quotient"), ReplyForm::Single);
    }

    #[test]
    fn an_unknown_status_is_kept_in_the_message() {
        let headers = Table::from([("rpc-status".to_owned(), Value::from("teapot"))]);
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        let expected = Status::new(Code::Unknown, "teapot: ");
        assert_eq!(
            ReplyHead::from_properties(properties).status,
            ReplyStatus::Failed(expected)
        );
    }
}
