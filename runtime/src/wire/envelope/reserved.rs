//! Reserved headers, and properties that a user may not publish.

use super::job::{BROKER_HEADERS, JOB_HEADERS, SOURCE_HEADERS, SOURCE_USER};
use super::reply::{DETAILS, MESSAGE, RETRY_AFTER, STATUS};
use super::request::ACCEPT;
use super::stream::STREAM;
use crate::error::Error;
use crate::wire::message::Properties;

/// Whether a header is written by Lepus or the broker on some kind of message, so that a user may set it
/// on none: it would be misread, or overwritten.
pub(crate) fn is_reserved(header: &str) -> bool {
    let ours = JOB_HEADERS.iter().chain(&SOURCE_HEADERS);
    let ours = ours.chain(&[STATUS, MESSAGE, RETRY_AFTER, DETAILS, ACCEPT, STREAM]);
    ours.chain(&BROKER_HEADERS).any(|name| *name == header)
}

/// Checks the headers that a user wants to send.
///
/// # Errors
/// One of them is reserved; the error names it.
pub(crate) fn check_headers<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    match names.into_iter().find(|name| is_reserved(name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "header `{name}` cannot be set: its name is reserved, Lepus or the broker writes it"
        ))),
    }
}

/// Makes properties publishable by this user. RabbitMQ closes the channel (406) over a `user_id` that is
/// not the connection's, so that of another user is moved into a header.
pub(crate) fn replace_user_id(properties: &mut Properties, user: Option<&str>) {
    let Some(uncommon) = &mut properties.uncommon else {
        return;
    };
    if let Some(name) = uncommon.user_id.take_if(|name| user != Some(&**name)) {
        properties.headers.insert(SOURCE_USER.into(), name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::JobHead;
    use crate::wire::message::Uncommon;
    use crate::wire::value::Value;

    #[test]
    fn reserved_headers_are_named() {
        for name in [
            "error",
            "rpc-accept",
            "rpc-details",
            "rpc-stream",
            "rpc-retry-after",
            "source-user-id",
            "x-death",
        ] {
            let error = check_headers([&name.to_owned()]).unwrap_err();
            assert!(
                error.is_invalid() && error.to_string().contains(name),
                "{error}"
            );
        }
        for name in ["tenant", "traceparent", "x-delay", "CC"] {
            check_headers([&name.to_owned()]).unwrap();
        }
    }

    #[test]
    fn another_users_id_becomes_a_header() {
        let mut properties = Properties {
            uncommon: Some(Box::new(Uncommon {
                user_id: Some("hare".into()),
                ..Uncommon::default()
            })),
            ..Properties::default()
        };
        let user = |properties: &Properties| properties.uncommon.clone().unwrap().user_id;
        replace_user_id(&mut properties, Some("hare"));
        assert_eq!(user(&properties).as_deref(), Some("hare"));
        assert!(properties.headers.is_empty());
        replace_user_id(&mut properties, None);
        assert_eq!(user(&properties), None);
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        // Of later copies too.
        replace_user_id(&mut properties, Some("fox"));
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        assert!(JobHead::read(&properties).headers.is_empty());
    }
}
