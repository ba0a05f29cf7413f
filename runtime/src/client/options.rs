//! The options of a call, and the methods that set them.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::descriptor::MethodDescriptor;
use crate::error::{Error, ErrorKind};
use crate::wire::codec::Codec;
use crate::wire::envelope::{check_headers, milliseconds};
use crate::wire::value::Table;

/// The absence of consumers from a queue after which a call fails, in whole milliseconds: half as large as a
/// [`Duration`], of which each call would hold one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence(u32);

impl Absence {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn of(duration: Duration) -> Self {
        Self(milliseconds(duration))
    }

    pub(super) fn duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// A call as its user has made it: the arguments and the options. Once it is started, it is a part of its
/// [`CallRequest`].
pub(super) struct CallOptions {
    pub(super) method: &'static MethodDescriptor,
    /// The encoded arguments; empty if there is an error.
    pub(super) body: Bytes,
    /// The first error of the arguments and the options, which the call fails with.
    pub(super) error: Option<Error>,
    pub(super) timeout: Option<Duration>,
    pub(super) priority: Option<u8>,
    /// The absence of consumers from the queue after which the call fails, if it is to fail fast. From the start of
    /// the call on, with the defaults of the client and the method.
    pub(super) fail_fast: Option<Absence>,
    /// The window of the stream that it asks for; 0 if it asks for none.
    pub(super) window: u32,
    /// Those of the user; from the start of the call on, with those that are propagated.
    pub(super) headers: Table,
}

impl CallOptions {
    /// Those of a call without any, which asks for a stream if `window` is not 0.
    pub(super) fn new<A: Serialize + ?Sized>(
        codec: Codec,
        method: &'static MethodDescriptor,
        arguments: &A,
        window: u32,
    ) -> Self {
        let (body, error) = match codec.encode(arguments) {
            Ok(body) => (body, None),
            Err(error) => {
                let error = Error::new(ErrorKind::Encode).caused_by(error);
                (Bytes::new(), Some(error))
            }
        };
        Self::encoded(method, body, error, window)
    }

    /// The same with encoded arguments, or with the error that the call fails with.
    pub(super) fn encoded(
        method: &'static MethodDescriptor,
        body: Bytes,
        error: Option<Error>,
        window: u32,
    ) -> Self {
        Self {
            method,
            body,
            error,
            timeout: None,
            priority: None,
            fail_fast: None,
            window,
            headers: Table::new(),
        }
    }

    /// Adds headers, in place of those of the same names.
    pub(super) fn add_headers(&mut self, headers: Table) {
        if let Err(error) = check_headers(headers.keys()) {
            self.error.get_or_insert(error);
        }
        self.headers.extend(headers);
    }
}

/// The methods that set the options which are the same for each kind of call. They are for an `impl` of a type with a
/// field `options`.
macro_rules! option_setters {
    () => {
        /// Sets the request's priority, for a service whose queue has priorities (`x-max-priority`).
        pub fn priority(mut self, priority: u8) -> Self {
            self.options.priority = Some(priority);
            self
        }

        /// Makes this call fail at once if nobody can take it, as
        /// [`ClientBuilder::fail_fast`](crate::rpc::ClientBuilder::fail_fast) does for all calls of a client.
        pub fn fail_fast(self) -> Self {
            self.fail_fast_after(::std::time::Duration::ZERO)
        }

        /// As [`fail_fast`](Self::fail_fast), but an absence of consumers that is shorter than this does not count
        /// ([`ClientBuilder::fail_fast_after`](crate::rpc::ClientBuilder::fail_fast_after)).
        pub fn fail_fast_after(mut self, absence: ::std::time::Duration) -> Self {
            self.options.fail_fast = Some($crate::client::options::Absence::of(absence));
            self
        }

        /// Adds a header, which the handler reads with [`Context::header`](crate::Context::header). A message
        /// with headers costs the broker 3 to 20 % more.
        ///
        /// A name that is [reserved](crate::amqp::Table#reserved-names-of-headers) makes the call fail with
        /// [`is_invalid`](crate::Error::is_invalid), and nothing is sent.
        pub fn header(self, name: &str, value: impl Into<$crate::wire::value::Value>) -> Self {
            self.headers($crate::wire::value::Table::from([(
                name.to_owned(),
                value.into(),
            )]))
        }

        /// Adds several headers, as [`header`](Self::header) does. A header that was added before under the
        /// same name is replaced.
        pub fn headers(mut self, headers: $crate::wire::value::Table) -> Self {
            self.options.add_headers(headers);
            self
        }
    };
}

pub(super) use option_setters;
