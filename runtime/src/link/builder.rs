//! Builder of a [`Connection`]: its settings, checked before anything is connected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::connection::Connection;
use super::io_thread::IoThread;
use super::settings::{BrokerAddress, Io, Settings, TlsSettings};
use crate::clock;
use crate::context::PropagatedHeaders;
use crate::error::Error;
use crate::observe::{Hooks, Observe, Propagate};
use crate::policy::retry::RetryPolicy;
use crate::wire::envelope::check_headers;
use crate::wire::name::Name;

/// The shortest pause between two attempts to connect, so that they cannot become a busy loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// The longest namespace. A name of a queue has 255 bytes; this leaves room for the names that Lepus
/// derives from the user's.
const NAMESPACE_MAX: usize = 128;

/// A builder for a [`Connection`], made by [`Connection::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is connected until `open`"]
pub struct ConnectionBuilder {
    uris: Vec<Uri>,
    name: Option<String>,
    heartbeat: Option<Duration>,
    connect_timeout: Option<Duration>,
    backoff: (Duration, Duration),
    max_message: usize,
    tls: TlsSettings,
    namespace: Option<String>,
    retry_at_start: bool,
    io: Io,
    propagated: Vec<String>,
    has_control: bool,
    metadata: BTreeMap<String, String>,
    hooks: Hooks,
}

/// A URI, whose `Debug` does not show it: it may contain a password.
#[derive(Clone)]
struct Uri(String);

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("amqp://…")
    }
}

// In this file, because the builder makes connections, and files do not use each other in a circle.
impl Connection {
    /// Connects to `amqp://user:password@host:port/vhost` (or `amqps://`), as
    /// [`Connection::builder`] does with its defaults.
    ///
    /// # Errors
    /// See [`ConnectionBuilder::open`].
    pub async fn open(uri: &str) -> Result<Self, Error> {
        Self::builder(uri).open().await
    }

    /// Returns a builder for a connection. Several addresses of one cluster may be given, each a whole
    /// URI, separated by commas; they are tried in turn.
    ///
    /// A URI is `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. The defaults are user
    /// `guest`, password `guest`, port 5672 (TLS: 5671) and virtual host `/`. Characters such as `/`,
    /// `@` and `%` in user name, password and virtual host are percent-encoded (`%2F`, `%40`, `%25`). An
    /// IPv6 address is written in brackets: `amqp://[2001:db8::1]:5672`. These query parameters may
    /// follow, after a `?` and separated by `&`:
    ///
    /// | parameter | | default |
    /// |---|---|---|
    /// | `heartbeat` | seconds, 1 to 65535 | 10 |
    /// | `frame_max` | bytes, 4096 to 1048576 | 131072 |
    /// | `channel_max` | 1 to 65535 | 2047 |
    /// | `connection_timeout` | milliseconds, at least 1 | 5000 |
    /// | `auth_mechanism` | `plain`, `amqplain`, `external`, `anonymous`, `rabbit-cr-demo` | `plain` |
    ///
    /// The broker may lower the first three. Any other parameter is an error. No error text contains the
    /// user, the password or the virtual host.
    pub fn builder(uri: &str) -> ConnectionBuilder {
        ConnectionBuilder::new(uri)
    }
}

impl ConnectionBuilder {
    fn new(uris: &str) -> Self {
        Self {
            uris: vec![Uri(uris.to_owned())],
            name: None,
            heartbeat: None,
            connect_timeout: None,
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            max_message: 16 * 1024 * 1024,
            tls: TlsSettings::default(),
            namespace: None,
            retry_at_start: false,
            io: Io::default(),
            propagated: Vec::new(),
            has_control: true,
            metadata: BTreeMap::new(),
            hooks: Hooks::default(),
        }
    }

    /// Adds another address of the same cluster, or several separated by commas. Addresses are tried in
    /// the order in which they were given.
    pub fn address(mut self, uri: &str) -> Self {
        self.uris.push(Uri(uri.to_owned()));
        self
    }

    /// Sets the name that the management UI shows and that messages carry as `app_id` (a handler sees it
    /// as [`Context::app_id`](crate::Context::app_id)): 1 to 255 bytes without control characters.
    /// Without one the UI shows the program's name and messages have no `app_id`, which makes each a
    /// few percent cheaper for the broker.
    ///
    /// The first AMQP connection that is opened has this name. A second one has its role appended:
    /// `name (consuming)` or `name (publishing)`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets the heartbeat interval, in whole seconds, rounded up: 1 to 65535 s. A dead peer is detected
    /// after two intervals. Default: the URI's `heartbeat`, or 10 s. The broker may lower it.
    ///
    /// A consumer that has been idle for three intervals asks whether its queue still has consumers (a
    /// passive `queue.declare`), and consumes it again if not: RabbitMQ may forget consumers without
    /// `basic.cancel` when a quorum queue is deleted right after it was declared.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Sets how long one attempt to connect to one address may take, from the name look-up to
    /// `connection.open-ok`. Default: the URI's `connection_timeout`, or 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// Sets the first and the longest pause between attempts to reconnect. Pauses double in between, and
    /// have jitter. Default: 0.1 s and 5 s; at least 1 ms each.
    ///
    /// While the broker's port refuses connections, as during a restart of the broker, pauses are at most
    /// half a second for the first minute, or the first pause if that is set longer. So the connection
    /// is back within a second after the broker.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// Sets the largest message that is sent or accepted, in bytes. Default: 16 MiB, the limit of
    /// RabbitMQ since 4.0.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Sets certificate authorities to trust besides the system's, in PEM.
    #[cfg(feature = "tls")]
    pub fn certificate_authorities(mut self, pem: &str) -> Self {
        self.tls.authorities = Some(pem.to_owned());
        self
    }

    /// Sets a client certificate and its key (PKCS#8), both in PEM.
    ///
    /// With `auth_mechanism=external` in the URI, the user is the one that the certificate names, where
    /// RabbitMQ has the plugin `rabbitmq_auth_mechanism_ssl`; the URI's own user is ignored then.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, certificate: &[u8], key: &[u8]) -> Self {
        self.tls.identity = Some((certificate.to_vec(), key.to_vec()));
        self
    }

    /// Sets a prefix for the names of all queues and exchanges (`prefix.name`), so that environments and
    /// tests can share a broker: 1 to 128 bytes without control characters. The broker's own exchanges
    /// (`amq.…`) keep their names.
    pub fn namespace(mut self, prefix: &str) -> Self {
        self.namespace = Some(prefix.to_owned());
        self
    }

    /// Names headers that flow on by themselves: calls, jobs and events that are sent over this connection
    /// inside a handler, or in the scope of a [`Context`](crate::Context), get those of its headers that have
    /// these names. A header that is set on the call, job or event itself wins. `traceparent`, `tracestate`
    /// and `baggage` always flow on, and need not be named. If this is called several times, the names are
    /// added up.
    ///
    /// ```no_run
    /// # async fn example(calculator: lepus::rpc::Client) -> Result<(), lepus::Error> {
    /// use lepus::{Connection, Context};
    ///
    /// let connection = Connection::builder("amqp://localhost")
    ///     .propagate(["x-request-id", "x-tenant"])
    ///     .open()
    ///     .await?;
    /// let context = Context::new().with_header("x-request-id", "7f3a");
    /// context.scope(async {
    ///     // What is sent here over `connection` has the header `x-request-id`.
    /// })
    /// .await;
    /// # let _ = connection;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A [reserved](crate::amqp::Table#reserved-names-of-headers) name, and one that is not 1 to 255 bytes long, is
    /// refused by [`open`](Self::open).
    pub fn propagate<N: Into<String>>(mut self, headers: impl IntoIterator<Item = N>) -> Self {
        self.propagated.extend(headers.into_iter().map(Into::into));
        self
    }

    /// Sets whether the connection answers questions about what it serves ([`control`](crate::control)). Default
    /// true: once it serves something, it declares the exchange `lepus.control` and a queue of its own, and
    /// answers when somebody asks. Without the permission to do so, it logs one warning, and all else works.
    pub fn control(mut self, answers: bool) -> Self {
        self.has_control = answers;
        self
    }

    /// Adds a fact that others see of what this connection serves ([`Discovery`](crate::Discovery)), such as the
    /// host or the zone it runs in. A name that was added before gets the new value. Do not put secrets there:
    /// everybody who may publish to the exchange `lepus.control` can read it.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), lepus::Error> {
    /// let builder = lepus::Connection::builder("amqp://localhost").metadata("zone", "eu-1");
    /// let connection = builder.open().await?;
    /// # let _ = connection;
    /// # Ok(())
    /// # }
    /// ```
    pub fn metadata(mut self, name: &str, value: &str) -> Self {
        self.metadata.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the hook that carries traces over the messages of this connection. Default: none; trace headers pass
    /// unchanged from a message to those that its handler sends. `lepus-otel` has one for OpenTelemetry.
    pub fn propagate_traces(mut self, propagate: impl Propagate) -> Self {
        self.hooks.propagate = Some(Arc::new(propagate));
        self
    }

    /// Sets the hook that is told of calls, requests, jobs, events and the state of this connection, to make
    /// metrics of it. Default: none. [`observe`](crate::observe) has an example, and `lepus-otel` has hooks for
    /// OpenTelemetry and for Prometheus.
    pub fn observe(mut self, observe: impl Observe) -> Self {
        self.hooks.observe = Some(Arc::new(observe));
        self
    }

    /// Sets the runtime on which the sockets are read and written. Default: [`Io::Own`].
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Lets [`open`](Self::open) succeed although the broker cannot be reached: the connection is
    /// attempted again as after a loss, and calls wait for it within their deadlines.
    pub fn retry_at_start(mut self) -> Self {
        self.retry_at_start = true;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// - [`is_invalid`](Error::is_invalid) for a URI or a setting that is not valid, or outside of a
    ///   tokio runtime;
    /// - [`is_connect`](Error::is_connect), unless [`retry_at_start`](Self::retry_at_start) is set, if no
    ///   address can be connected to. [`is_bad_credentials`](Error::is_bad_credentials),
    ///   [`is_bad_virtual_host`](Error::is_bad_virtual_host), [`is_tls`](Error::is_tls) and
    ///   [`is_timeout`](Error::is_timeout) tell the reasons apart.
    ///
    /// # Cancel safety
    /// If the future is dropped, the attempt ends at its timeout at the latest and leaves nothing open.
    ///
    /// # Panics
    /// If the current tokio runtime has no timers (`enable_time`).
    pub async fn open(self) -> Result<Connection, Error> {
        Error::check_runtime()?;
        let tasks = Handle::current();
        let retry_at_start = self.retry_at_start;
        let io = self.io;
        let settings = self.settings()?;
        let own = match io {
            Io::Own => Some(IoThread::start()?),
            Io::Shared => None,
        };
        let connection = Connection::new(settings, tasks, own);
        if !retry_at_start {
            connection.open_first().await?;
        }
        Ok(connection)
    }

    fn settings(self) -> Result<Settings, Error> {
        let heartbeat = match self.heartbeat {
            None => None,
            Some(interval) => match u16::try_from(clock::whole_seconds(interval)) {
                Ok(seconds) if seconds > 0 => Some(seconds),
                _ => return Err(Error::invalid("the heartbeat is not 1 to 65535 seconds")),
            },
        };
        check_headers(&self.propagated)?;
        for name in &self.propagated {
            Name::parse(name.as_str())?;
        }
        let lists = self.uris.iter().map(|Uri(list)| &**list);
        let addresses = BrokerAddress::parse_all(lists, heartbeat)?;
        let (first, longest) = self.backoff;
        // The name is sent as `app_id`, which is a short string.
        let is_named = self.name.is_some();
        let name = Name::parse(self.name.unwrap_or_else(program))?;
        let namespace = self.namespace.map(Name::parse).transpose()?;
        if namespace
            .as_ref()
            .is_some_and(|prefix| prefix.as_str().len() > NAMESPACE_MAX)
        {
            let text = format!("the namespace is longer than {NAMESPACE_MAX} bytes");
            return Err(Error::invalid(text));
        }
        Ok(Settings {
            addresses,
            name: name.to_string(),
            is_named,
            connect_timeout: self.connect_timeout,
            backoff: RetryPolicy::default()
                .attempts(u32::MAX)
                .backoff(first.max(SHORTEST_PAUSE), longest)
                .jitter(0.5),
            max_message: self.max_message,
            tls: self.tls,
            namespace,
            propagated: PropagatedHeaders::new(self.propagated),
            has_control: self.has_control,
            metadata: self.metadata,
            hooks: self.hooks,
        })
    }
}

/// The name of the running program.
fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = path
        .as_deref()
        .and_then(|path| path.file_stem())
        .and_then(|name| name.to_str());
    name.unwrap_or("lepus").to_owned()
}
