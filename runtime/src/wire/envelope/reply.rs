//! Head of a reply.

use std::borrow::Cow;

use super::property::{non_empty, truncated};
use super::request::{CALLS_TYPE, is_protocol_type, lists};
use crate::wire::message::Properties;
use crate::wire::status::{Code, Status};
use crate::wire::value::{Table, Value};

/// Header of a reply that is not a success: a status code, or [`APPLICATION`].
pub(super) const STATUS: &str = "rpc-status";
/// Header of a reply with a status code: a text for people.
pub(super) const MESSAGE: &str = "rpc-message";
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

    /// Reads the two headers. A status that is not known becomes [`Code::Unknown`], with its name in the
    /// message.
    pub(crate) fn from_parts(name: Option<&str>, message: Option<&str>) -> Self {
        match name {
            None | Some("ok") => Self::Success,
            Some(APPLICATION) => Self::Application,
            Some(code) => {
                let message = message.unwrap_or_default();
                Self::Failed(match code.parse::<Code>() {
                    Ok(code) => Status::new(code, message),
                    Err(_) => Status::new(Code::Unknown, format!("{code}: {message}")),
                })
            }
        }
    }
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
    fn statuses_travel_as_two_headers() {
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
