//! Calls by name: the service and the method are known at run time only, the arguments are encoded already, and the
//! reply is not decoded.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::builder::ClientBuilder;
use super::handle::Client;
use super::layered::LayeredCall;
use super::options::{CallOptions, option_setters};
use super::request::CallRequest;
use super::transport::Sending;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, ErrorKind, Outcome};
use crate::link::Connection;
use crate::service::{BoxFuture, Reply};
use crate::stats::HandlerOutcome;
use crate::sync::lock;
use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;
use crate::wire::name::Name;

/// A client of a service that it knows by name only, for tools and gateways. Cheap to clone; all clones share one
/// limit of [calls in flight](ClientBuilder::max_in_flight).
///
/// It needs no contract: every Lepus server reads JSON and MessagePack, and replies in the encoding of the request.
/// Arguments are a map from their names to their values, an array of the values, or, if the method has bare
/// parameters, its one argument.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::Codec;
/// use lepus::rpc::DynamicClient;
///
/// let calculator = DynamicClient::builder(&connection, "calculator", "calculator")?
///     .codec(Codec::Json)
///     .build();
/// let reply = calculator.call("divide", r#"{"dividend":84,"divisor":2}"#).await?;
/// let json = String::from_utf8_lossy(reply.body());
/// match reply.is_own_error() {
///     false => println!("{json}"),
///     true => println!("the method's own error: {json}"),
/// }
/// # Ok(())
/// # }
/// ```
///
/// The names of services and methods that are called are kept until the process ends, each once. So a program that
/// gets them from strangers checks them first, for instance against [`Discovery`](crate::Discovery).
#[derive(Clone)]
pub struct DynamicClient {
    pub(super) client: Client,
}

impl DynamicClient {
    /// A builder for a client of the service that consumes this queue. The name of the service is that of its errors
    /// and spans; most services have the queue of their name. Unless [`codec`](ClientBuilder::codec) is set, arguments
    /// are MessagePack.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) if one is no name of 1 to 255 bytes without control characters.
    pub fn builder(
        connection: &Connection,
        service: &str,
        queue: &str,
    ) -> Result<ClientBuilder<Self>, Error> {
        Name::parse(service)?;
        Name::parse(queue)?;
        Ok(ClientBuilder::new(connection, SERVICES.get(service, queue)))
    }

    /// Creates a call of a method with these encoded arguments. It is made when it is awaited.
    pub fn call(&self, method: &str, arguments: impl Into<Bytes>) -> DynamicCall {
        let (method, error) = MethodKey::named(method);
        DynamicCall {
            client: self.client.clone(),
            options: CallOptions::encoded(&NOT_CALLED, arguments.into(), error, 0),
            method,
        }
    }
}

impl From<Client> for DynamicClient {
    fn from(client: Client) -> Self {
        Self { client }
    }
}

impl fmt::Debug for DynamicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

/// Stands for the method of a call that is not made yet. The method's name and options are looked up when it is, because
/// they are kept from then on.
static NOT_CALLED: MethodDescriptor = MethodDescriptor::new(0, "");

/// A call of a [`DynamicClient`] that is not made yet: await it. Its options are those of a [`Call`](super::Call).
///
/// # Errors
/// Those of a call; a status that the server replied with is [`Error::status`]. The method's own error is a
/// [`DynamicReply`].
///
/// # Cancel safety
/// Dropping the future gives the call up, as [dropping a call](super::Call#cancel-safety) does.
#[must_use = "a call is made when it is awaited"]
pub struct DynamicCall {
    client: Client,
    method: MethodKey,
    options: CallOptions,
}

impl DynamicCall {
    /// Sets the longest time that the call may take, as [`Call::timeout`](super::Call::timeout) does.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    option_setters!();

    /// Says that the method has no reply: the call ends when the broker has confirmed the request, with an empty
    /// reply.
    pub fn oneway(mut self) -> Self {
        self.method.is_oneway = true;
        self
    }

    /// Says that the method may run twice: the request is sent again if its connection is lost.
    pub fn idempotent(mut self) -> Self {
        self.method.is_idempotent = true;
        self
    }

    async fn send_and_receive(self) -> Result<DynamicReply, Error> {
        let Self {
            client,
            method,
            mut options,
        } = self;
        options.method = METHODS.get(method);
        match client.inner.layers.clone() {
            None => {
                let mut call = Sending::start(client, options).done().await?;
                let reply = call.response().await?;
                DynamicReply::of(call.request(), reply)
            }
            Some(layers) => {
                let mut call = LayeredCall::start(&client, options, &layers)?;
                let reply = call.response().await?;
                let result = DynamicReply::of(call.request(), reply);
                call.ended(match &result {
                    Ok(reply) => reply.outcome(),
                    Err(error) => HandlerOutcome::Status(error.grpc_code()),
                });
                result
            }
        }
    }
}

impl IntoFuture for DynamicCall {
    type Output = Result<DynamicReply, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send_and_receive())
    }
}

impl fmt::Debug for DynamicCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamicCall")
            .field("service", &self.client.descriptor().name())
            .field("method", &self.method.name)
            .field("bytes", &self.options.body.len())
            .finish_non_exhaustive()
    }
}

/// The reply to a [`DynamicCall`], or an item of a [`DynamicStreaming`](super::DynamicStreaming): the encoded value, or
/// the method's own error.
#[derive(Clone)]
pub struct DynamicReply {
    is_own_error: bool,
    codec: Codec,
    body: Bytes,
}

impl DynamicReply {
    /// The reply of a call that has ended.
    ///
    /// # Errors
    /// The status, if it is one.
    pub(super) fn of(request: &CallRequest, reply: Reply) -> Result<Self, Error> {
        let codec = reply.codec().unwrap_or(request.codec);
        let (status, body, _) = reply.into_parts();
        let is_own_error = match status {
            ReplyStatus::Success => false,
            ReplyStatus::Application => true,
            ReplyStatus::Failed(status) => {
                return Err(request.failed(ErrorKind::Status(status), Outcome::Answered));
            }
        };
        let reply = Self {
            is_own_error,
            codec,
            body,
        };
        request.ended(reply.outcome());
        Ok(reply)
    }

    /// An item of a stream.
    pub(super) fn item(codec: Codec, body: Bytes) -> Self {
        Self {
            is_own_error: false,
            codec,
            body,
        }
    }

    fn outcome(&self) -> HandlerOutcome {
        match self.is_own_error {
            true => HandlerOutcome::OwnError,
            false => HandlerOutcome::Ok,
        }
    }

    /// Whether the method returned its own error, which the body is then.
    #[must_use]
    pub fn is_own_error(&self) -> bool {
        self.is_own_error
    }

    /// The encoding of the body: that of the arguments, unless the server is of another kind.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The encoded value, or the method's own error.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// It is no `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        self.codec.decode(&self.body)
    }
}

impl fmt::Debug for DynamicReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamicReply")
            .field("is_own_error", &self.is_own_error)
            .field("codec", &self.codec)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// The facts by which descriptors of methods differ.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct MethodKey {
    name: String,
    is_oneway: bool,
    is_idempotent: bool,
    is_stream: bool,
}

impl MethodKey {
    /// The method of this name. If it is no name, a call of it fails with the error.
    fn named(name: &str) -> (Self, Option<Error>) {
        match Name::parse(name) {
            Ok(_) => {
                let name = name.to_owned();
                (
                    Self {
                        name,
                        ..Self::default()
                    },
                    None,
                )
            }
            Err(error) => (Self::default(), Some(error.into())),
        }
    }
}

/// The descriptor of a method of this name that returns a stream.
pub(super) fn stream_method(name: &str) -> (&'static MethodDescriptor, Option<Error>) {
    let (mut method, error) = MethodKey::named(name);
    method.is_stream = true;
    (METHODS.get(method), error)
}

static SERVICES: LazyLock<KnownServices> = LazyLock::new(KnownServices::default);
static METHODS: LazyLock<KnownMethods> = LazyLock::new(KnownMethods::default);

/// Descriptors of services that were called by name. Descriptors live as long as the process, because those of
/// generated code do, so each is made once.
#[derive(Default)]
struct KnownServices(Mutex<HashMap<(String, String), &'static ServiceDescriptor>>);

impl KnownServices {
    fn get(&self, name: &str, queue: &str) -> &'static ServiceDescriptor {
        let key = (name.to_owned(), queue.to_owned());
        lock(&self.0).entry(key).or_insert_with(|| {
            let name: &'static str = String::leak(name.to_owned());
            let queue: &'static str = String::leak(queue.to_owned());
            Box::leak(Box::new(ServiceDescriptor::new(name, &[]).queue(queue)))
        })
    }
}

/// Descriptors of methods that were called by name.
#[derive(Default)]
struct KnownMethods(Mutex<HashMap<MethodKey, &'static MethodDescriptor>>);

impl KnownMethods {
    fn get(&self, key: MethodKey) -> &'static MethodDescriptor {
        let mut known = lock(&self.0);
        if let Some(method) = known.get(&key) {
            return method;
        }
        let mut method = MethodDescriptor::new(0, String::leak(key.name.clone()));
        if key.is_oneway {
            method = method.oneway();
        }
        if key.is_idempotent {
            method = method.idempotent();
        }
        if key.is_stream {
            method = method.stream();
        }
        let method: &'static MethodDescriptor = Box::leak(Box::new(method));
        known.insert(key, method);
        method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(DynamicCall: Send);
    static_assertions::assert_impl_all!(DynamicClient: Send, Sync);

    #[test]
    fn a_name_is_kept_once() {
        let services = KnownServices::default();
        let first = services.get("fibonacci", "rpc_queue");
        assert_eq!(
            (first.name(), first.queue_name()),
            ("fibonacci", "rpc_queue")
        );
        assert!(std::ptr::eq(first, services.get("fibonacci", "rpc_queue")));
        assert!(!std::ptr::eq(first, services.get("fibonacci", "fibonacci")));

        let methods = KnownMethods::default();
        let key = MethodKey {
            name: "fib".to_owned(),
            ..MethodKey::default()
        };
        let oneway = MethodKey {
            is_oneway: true,
            ..key.clone()
        };
        let fib = methods.get(key.clone());
        assert!(std::ptr::eq(fib, methods.get(key)));
        assert_eq!((fib.name(), fib.is_oneway()), ("fib", false));
        assert!(methods.get(oneway).is_oneway());
        let stream = MethodKey {
            is_stream: true,
            ..MethodKey::named("fib").0
        };
        assert!(methods.get(stream).is_stream());
    }
}
