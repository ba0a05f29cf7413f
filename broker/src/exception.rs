//! AMQP exceptions, which close a channel or a connection (`channel.close`, `connection.close`), with
//! RabbitMQ's reply codes and texts.

use crate::octets;

/// A reply code of AMQP 0-9-1 that reports an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    ConnectionForced,
    AccessRefused,
    NotFound,
    ResourceLocked,
    PreconditionFailed,
    FrameError,
    CommandInvalid,
    ChannelError,
    UnexpectedFrame,
    ResourceError,
    NotAllowed,
    NotImplemented,
    InternalError,
}

impl Code {
    pub(crate) fn number(self) -> u16 {
        match self {
            Code::ConnectionForced => 320,
            Code::AccessRefused => 403,
            Code::NotFound => 404,
            Code::ResourceLocked => 405,
            Code::PreconditionFailed => 406,
            Code::FrameError => 501,
            Code::CommandInvalid => 503,
            Code::ChannelError => 504,
            Code::UnexpectedFrame => 505,
            Code::ResourceError => 506,
            Code::NotAllowed => 530,
            Code::NotImplemented => 540,
            Code::InternalError => 541,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Code::ConnectionForced => "CONNECTION_FORCED",
            Code::AccessRefused => "ACCESS_REFUSED",
            Code::NotFound => "NOT_FOUND",
            Code::ResourceLocked => "RESOURCE_LOCKED",
            Code::PreconditionFailed => "PRECONDITION_FAILED",
            Code::FrameError => "FRAME_ERROR",
            Code::CommandInvalid => "COMMAND_INVALID",
            Code::ChannelError => "CHANNEL_ERROR",
            Code::UnexpectedFrame => "UNEXPECTED_FRAME",
            Code::ResourceError => "RESOURCE_ERROR",
            Code::NotAllowed => "NOT_ALLOWED",
            Code::NotImplemented => "NOT_IMPLEMENTED",
            Code::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether the exception closes the connection, and not only the channel.
    pub(crate) fn ends_connection(self) -> bool {
        !matches!(
            self,
            Code::AccessRefused | Code::NotFound | Code::ResourceLocked | Code::PreconditionFailed
        )
    }
}

/// The reason for which the broker closes a channel or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) code: Code,
    text: String,
    /// The class id and the method id of the method that failed; zero if no method failed.
    pub(crate) class: u16,
    pub(crate) method: u16,
    whole_connection: bool,
}

impl Exception {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            class: 0,
            method: 0,
            whole_connection: code.ends_connection(),
        }
    }

    /// Sets the method that failed, unless one is set already.
    #[must_use]
    pub(crate) fn of(mut self, class: u16, method: u16) -> Self {
        if self.class == 0 {
            self.class = class;
            self.method = method;
        }
        self
    }

    /// Makes the exception close the connection although its code closes only a channel, as for a
    /// refused login.
    #[must_use]
    pub(crate) fn on_connection(mut self) -> Self {
        self.whole_connection = true;
        self
    }

    pub(crate) fn ends_connection(&self) -> bool {
        self.whole_connection
    }

    /// The reply text on the wire: the code's name, a dash and the reason. As RabbitMQ's, the text of an
    /// internal error has no reason.
    pub(crate) fn reply_text(&self) -> String {
        if self.code == Code::InternalError {
            return self.code.name().to_owned();
        }
        format!("{} - {}", self.code.name(), octets::display(&self.text))
    }
}

pub(crate) fn access_refused(text: impl Into<String>) -> Exception {
    Exception::new(Code::AccessRefused, text)
}

pub(crate) fn precondition_failed(text: impl Into<String>) -> Exception {
    Exception::new(Code::PreconditionFailed, text)
}

pub(crate) fn not_allowed(text: impl Into<String>) -> Exception {
    Exception::new(Code::NotAllowed, text)
}

pub(crate) fn not_implemented(text: impl Into<String>) -> Exception {
    Exception::new(Code::NotImplemented, text)
}

pub(crate) fn no_queue(name: &str, vhost: &str) -> Exception {
    Exception::new(
        Code::NotFound,
        format!("no queue '{name}' in vhost '{vhost}'"),
    )
}

pub(crate) fn no_exchange(name: &str, vhost: &str) -> Exception {
    Exception::new(
        Code::NotFound,
        format!("no exchange '{name}' in vhost '{vhost}'"),
    )
}

pub(crate) fn locked_queue(name: &str, vhost: &str) -> Exception {
    Exception::new(
        Code::ResourceLocked,
        format!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could \
             be originally declared on another connection or the exclusive property value does \
             not match that of the original declaration."
        ),
    )
}
