//! The connection that users hold: two sessions, each opened when it is first needed.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use super::namespace::Namespace;
use super::session::Session;
use super::settings::{Address, Io, Settings, TlsSettings};
use super::state::{Board, ConnectionState, Role};
use super::supervise::{Dialer, Link};
use crate::clock;
use crate::error::Error;
use crate::policy::retry::RetryPolicy;
use crate::stats::{Counters, Stats};
use crate::sync::lock;
use crate::wire::name::Name;

/// How long a dropped connection may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(3);
/// The shortest pause between two attempts to connect: without one they would never rest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// A queue's name has 255 bytes; this leaves room for those that Lepus makes up.
const NAMESPACE_MAX: usize = 128;

/// A connection to RabbitMQ. Cheap to clone; the last clone to go closes it.
///
/// It holds one or two AMQP connections, each opened when it is first needed: one for what is
/// published (requests, jobs, events) and the replies to it, one for what is consumed and its
/// acknowledgements. RabbitMQ stops reading from a connection that publishes under a memory or disk
/// alarm, so worker pools and subscriptions go on acknowledging; a server does not, because its
/// replies are published on the connection that it consumes from, and a pool that shares its
/// `Connection` waits with it. When one is lost it is built again with jittered backoff, for ever, until
/// [`close`](Self::close); queues and consumers are put back. [`state`](Self::state) tells.
///
/// Its own reading and writing is done by threads of its own, so a handler that blocks its thread
/// costs no heartbeats. Handlers, and whatever else works for the user, run on the tokio runtime that
/// the connection was opened on; when that runtime ends, the connection is closed. It may be used
/// from others, but not from a thread without any: that is an error
/// ([`is_invalid`](Error::is_invalid)).
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

/// Closes the connection when the runtime goes that it was opened on, with the task that holds this.
struct RuntimeGuard {
    dialer: Arc<Dialer>,
    board: Arc<Board>,
    closing: watch::Sender<bool>,
}

impl RuntimeGuard {
    /// Starts the task. It ends with the connection.
    fn watch(self, tasks: &Handle) {
        let mut closing = self.closing.subscribe();
        tasks.spawn(async move {
            // The guard holds a sender, so there is always one.
            let _ = closing.wait_for(|closing| *closing).await;
            drop(self);
        });
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if self.closing.send_replace(true) {
            return;
        }
        tracing::warn!("the runtime that the connection was opened on has ended: it is closed");
        if let Some(spare) = self.dialer.take() {
            self.dialer.io.spawn(async move { spare.close().await });
        }
        // Whoever keeps a session up closes it first, and says so then.
        if !self.dialer.is_in_use() {
            self.board.closed_all();
        }
    }
}

struct Inner {
    dialer: Arc<Dialer>,
    board: Arc<Board>,
    namespace: Namespace,
    closing: watch::Sender<bool>,
    publishing: OnceLock<Link>,
    consuming: OnceLock<Link>,
    tasks: Handle,
    shared: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    counters: Arc<Counters>,
    io: Option<Runtime>,
}

impl Connection {
    /// Connects to `amqp://user:password@host:port/vhost` (or `amqps://`), as
    /// [`Connection::builder`] does with its defaults.
    ///
    /// # Errors
    /// See [`ConnectionBuilder::open`].
    pub async fn open(uri: &str) -> Result<Self, Error> {
        Self::builder(uri).open().await
    }

    /// A connection to be configured. Several addresses of one cluster may be given, each a whole
    /// URI, separated by commas; they are tried in turn.
    ///
    /// A URI is `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. What is left out is
    /// `guest` and `guest`, port 5672 (TLS: 5671), and the virtual host `/`. `/`, `@`, `%` and the
    /// like in user name, password and virtual host are percent-encoded (`%2F`, `%40`, `%25`). An IPv6
    /// address stands in brackets: `amqp://[2001:db8::1]:5672`. Behind a `?` may follow, separated by
    /// `&`:
    ///
    /// | parameter | | default |
    /// |---|---|---|
    /// | `heartbeat` | seconds, 1 to 65535 | 10 |
    /// | `frame_max` | bytes, 4096 to 1048576 | 131072 |
    /// | `channel_max` | 1 to 65535 | 2047 |
    /// | `connection_timeout` | milliseconds, at least 1 | 5000 |
    /// | `auth_mechanism` | `plain`, `amqplain`, `external`, `anonymous`, `rabbit-cr-demo` | `plain` |
    ///
    /// The broker may lower the first three. A URI that says anything else is an error, and no error
    /// repeats user, password or virtual host.
    pub fn builder(uri: &str) -> ConnectionBuilder {
        ConnectionBuilder::new(uri)
    }

    /// How the connection is doing, to look at or to wait on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.board.watch()
    }

    /// Counters and gauges, read now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.read()
    }

    /// Closes both sessions. Calls and pushes under way end with an error that
    /// [`is_closed`](Error::is_closed); servers and workers stop. Closing twice is no error.
    ///
    /// Returns when the broker has said goodbye, or after two seconds without. Cancel-safe: the
    /// closing goes on.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        if let Some(spare) = self.inner.dialer.take() {
            // There, so that it goes on when this is dropped, and has its timer wherever this is.
            let closing = self.io().spawn(async move { spare.close().await });
            // It can fail only with its runtime, which is the end as well.
            let _ = closing.await;
        }
        for link in self.inner.links() {
            link.closed().await;
        }
        self.inner.board.closed_all();
    }

    /// The session for what is published.
    pub(crate) fn publishing(&self) -> &Link {
        self.inner.link(&self.inner.publishing, Role::Publishing)
    }

    /// The session for what is consumed.
    pub(crate) fn consuming(&self) -> &Link {
        self.inner.link(&self.inner.consuming, Role::Consuming)
    }

    /// A session that nobody else is on, for what may cost it. Whoever opens it closes it.
    pub(crate) async fn apart(&self) -> Result<Arc<Session>, Error> {
        self.inner.dialer.connect(None).await
    }

    /// The runtime that this was opened on: where handlers and readers run.
    pub(crate) fn tasks(&self) -> &Handle {
        &self.inner.tasks
    }

    /// lapin's own runtime: for what must go on when every thread of the user's is busy.
    pub(crate) fn io(&self) -> &Handle {
        &self.inner.dialer.io
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// Its name, if it was given one: what messages carry as `app_id`.
    pub(crate) fn given_name(&self) -> Option<&str> {
        let settings = &self.inner.dialer.settings;
        settings.is_named.then_some(&*settings.name)
    }

    /// The user that it logs in as; `None` where its addresses do not agree.
    pub(crate) fn user(&self) -> Option<&str> {
        let addresses = &self.inner.dialer.settings.addresses;
        let mut users = addresses
            .iter()
            .map(|address| address.0.authority.userinfo.username.as_str());
        let first = users.next()?;
        users.all(|user| user == first).then_some(first)
    }

    /// The largest message sent or taken, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.inner.dialer.settings.max_message
    }

    /// How long to wait before a failed set-up is tried again.
    pub(crate) fn backoff(&self) -> &RetryPolicy {
        &self.inner.dialer.settings.backoff
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.counters)
    }

    /// Something that all users of this connection share, made once.
    pub(crate) fn shared<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = lock(&self.inner.shared);
        let found = shared.get(&TypeId::of::<T>()).cloned();
        if let Some(found) = found.and_then(|found| found.downcast::<T>().ok()) {
            return found;
        }
        let made = Arc::new(make());
        shared.insert(TypeId::of::<T>(), Arc::clone(&made) as _);
        made
    }
}

impl Inner {
    fn link<'a>(&self, slot: &'a OnceLock<Link>, role: Role) -> &'a Link {
        slot.get_or_init(|| {
            let (dialer, board) = (Arc::clone(&self.dialer), Arc::clone(&self.board));
            Link::start(dialer, role, board, self.closing.subscribe())
        })
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        [&self.publishing, &self.consuming]
            .into_iter()
            .filter_map(OnceLock::get)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        let Some(io) = self.io.take() else { return };
        let links: Vec<Link> = self.links().cloned().collect();
        let spare = self.dialer.take();
        let farewell = async move {
            if let Some(spare) = spare {
                spare.close().await;
            }
            for link in links {
                link.closed().await;
            }
        };
        end(io, farewell, |work| {
            let thread = std::thread::Builder::new().name("lepus-close".into());
            thread.spawn(work).map(drop)
        });
    }
}

/// Ends a runtime once `farewell` is done, from a thread of its own. tokio panics when a runtime is
/// waited for or dropped inside another one, and the last clone of a connection may be dropped
/// anywhere.
fn end(
    io: Runtime,
    farewell: impl Future<Output = ()> + Send + 'static,
    spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> std::io::Result<()>,
) {
    // Where no thread can be had, what it was to do is dropped, and the runtime must not be.
    let io = Arc::new(Mutex::new(Some(io)));
    let owned = Arc::clone(&io);
    let waiting = spawn(Box::new(move || {
        let io = lock(&owned).take();
        if let Some(io) = io {
            let said = io.block_on(async { tokio::time::timeout(FAREWELL, farewell).await });
            if said.is_err() {
                tracing::debug!("the broker did not answer the end of the connection");
            }
            io.shutdown_background();
        }
    }));
    if let Err(error) = waiting {
        tracing::warn!(%error, "no thread to close the connection politely");
        let io = lock(&io).take();
        if let Some(io) = io {
            io.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let settings = &self.inner.dialer.settings;
        f.debug_struct("Connection")
            .field("name", &settings.name)
            .field("addresses", &settings.addresses)
            .field("state", &*self.inner.board.watch().borrow())
            .finish_non_exhaustive()
    }
}

/// A connection's settings; [`open`](Self::open) makes it.
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
}

/// A URI that is not printed: it may hold a password.
#[derive(Clone)]
struct Uri(String);

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("amqp://…")
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
        }
    }

    /// Another address of the same cluster, or several separated by commas, tried after those before
    /// it.
    pub fn address(mut self, uri: &str) -> Self {
        self.uris.push(Uri(uri.to_owned()));
        self
    }

    /// The name that the management UI shows, and that messages carry as `app_id` (the callee
    /// sees it as [`Context::caller`](crate::Context::caller)): 1 to 255 bytes without control
    /// characters. Without one the UI shows the program's name and messages carry none, which
    /// saves the broker a few percent of each.
    ///
    /// The first of a connection's AMQP connections goes by this name; a second one has its part
    /// behind it, `name (consuming)` or `name (publishing)`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// How often heartbeats are sent, in whole seconds, rounded up: 1 to 65535 s. A dead peer is
    /// found after two intervals. Default 10 s, or what the URI's `heartbeat=` says. The broker may
    /// ask for a shorter one.
    ///
    /// A consumer that has had nothing to do for three intervals asks whether its queue still has
    /// consumers (a passive `queue.declare`), and consumes it again if not: RabbitMQ may forget
    /// consumers without `basic.cancel` when a quorum queue is deleted right after it was declared.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// How long one attempt at an address may take, from the name look-up to `connection.open-ok`.
    /// Default 5 s, or what the URI's `connection_timeout=` says.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// The first and the longest pause between attempts to reconnect; doubling in between, with
    /// jitter. Default 0.1 s to 5 s; at least 1 ms each.
    ///
    /// While the broker's port is closed (nobody listens: the broker is being restarted), pauses
    /// grow to half a second at the most in the first minute, unless the first is set longer: the
    /// connection is back within a second of the broker.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// The largest message that is sent or taken, in bytes. Default 16 MiB, which is RabbitMQ's
    /// own limit since 4.0.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Certificate authorities to trust besides the system's, in PEM.
    #[cfg(feature = "tls")]
    pub fn certificate_authorities(mut self, pem: &str) -> Self {
        self.tls.authorities = Some(pem.to_owned());
        self
    }

    /// A client certificate with its key (PKCS#8), both in PEM.
    ///
    /// With `auth_mechanism=external` in the URI, the user is the one that the certificate names, where
    /// RabbitMQ has the plugin `rabbitmq_auth_mechanism_ssl`; the URI's own user is not asked then.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, certificate: &[u8], key: &[u8]) -> Self {
        self.tls.identity = Some((certificate.to_vec(), key.to_vec()));
        self
    }

    /// A prefix for every queue and exchange (`prefix.name`), so that environments and tests can
    /// share a broker: 1 to 128 bytes without control characters. The broker's own exchanges
    /// (`amq.…`) have none.
    pub fn namespace(mut self, prefix: &str) -> Self {
        self.namespace = Some(prefix.to_owned());
        self
    }

    /// The runtime on which the sockets are read and written. Default: [`Io::Own`].
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Do not fail when the broker cannot be reached at first: retry as after a loss. Calls wait
    /// within their deadlines meanwhile.
    pub fn retry_at_start(mut self) -> Self {
        self.retry_at_start = true;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for a URI or setting that makes no sense; and, unless
    /// [`retry_at_start`](Self::retry_at_start): [`is_connect`](Error::is_connect), with
    /// [`is_bad_credentials`](Error::is_bad_credentials),
    /// [`is_bad_virtual_host`](Error::is_bad_virtual_host), [`is_tls`](Error::is_tls) and
    /// [`is_timeout`](Error::is_timeout) to tell them apart. Outside of a tokio runtime it is
    /// [`is_invalid`](Error::is_invalid).
    ///
    /// # Panics
    /// As tokio does, when the runtime it is called on has no timers (`enable_time`).
    ///
    /// Cancel-safe: a dropped attempt ends at its timeout and leaves nothing behind.
    pub async fn open(self) -> Result<Connection, Error> {
        Error::check_runtime()?;
        let tasks = Handle::current();
        let retry_at_start = self.retry_at_start;
        let chosen = self.io;
        // First whatever may be wrong: a runtime cannot be dropped here.
        let settings = self.settings()?;
        let own = match chosen {
            Io::Own => Some(own_runtime()?),
            Io::Shared => None,
        };
        let io = own.as_ref().map_or(&tasks, Runtime::handle).clone();
        let namespace = Namespace::new(settings.namespace.clone());
        let counters = Arc::<Counters>::default();
        let dialer = Dialer::new(settings, io, Arc::clone(&counters));
        let dialer = Arc::new(dialer);
        let (board, closing) = (Arc::new(Board::new()), watch::Sender::new(false));
        let guard = RuntimeGuard {
            dialer: Arc::clone(&dialer),
            board: Arc::clone(&board),
            closing: closing.clone(),
        };
        guard.watch(&tasks);
        let connection = Connection {
            inner: Arc::new(Inner {
                dialer: Arc::clone(&dialer),
                board,
                namespace,
                closing,
                publishing: OnceLock::new(),
                consuming: OnceLock::new(),
                tasks,
                shared: Mutex::new(HashMap::new()),
                counters,
                io: own,
            }),
        };
        if !retry_at_start {
            dialer.keep(dialer.connect(None).await?);
        }
        Ok(connection)
    }

    fn settings(self) -> Result<Settings, Error> {
        let heartbeat = match self.heartbeat {
            None => None,
            Some(interval) => match u16::try_from(clock::whole_seconds(interval)) {
                Ok(seconds) if seconds > 0 => Some(seconds),
                _ => return Err(Error::invalid("a heartbeat is 1 to 65535 seconds")),
            },
        };
        let lists = self.uris.iter().map(|Uri(list)| &**list);
        let addresses = Address::parse_all(lists, heartbeat)?;
        let (first, longest) = self.backoff;
        // It travels as `app_id`, a short string.
        let is_named = self.name.is_some();
        let name = Name::parse(self.name.unwrap_or_else(program))?;
        let namespace = self.namespace.map(Name::parse).transpose()?;
        if namespace
            .as_ref()
            .is_some_and(|prefix| prefix.as_str().len() > NAMESPACE_MAX)
        {
            let text = format!("a namespace can be {NAMESPACE_MAX} bytes long at most");
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
        })
    }
}

/// A runtime of one thread for a connection.
fn own_runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lepus-io")
        .enable_all()
        .build()
        .map_err(|error| Error::invalid("no runtime for the connection").caused_by(error))
}

fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = path
        .as_deref()
        .and_then(|path| path.file_stem())
        .and_then(|name| name.to_str());
    name.unwrap_or("lepus").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    }

    /// Dropping a runtime in there would panic.
    #[tokio::test]
    async fn a_runtime_ends_where_no_thread_can_be_had() {
        let io = runtime();
        let handle = io.handle().clone();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        handle.spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        end(io, std::future::ready(()), |work| {
            drop(work);
            Err(std::io::ErrorKind::WouldBlock.into())
        });
        // Its tasks go with it.
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn a_runtime_ends_once_the_farewell_is_done() {
        let (said, heard) = tokio::sync::oneshot::channel();
        let farewell = async move {
            assert!(said.send(()).is_ok());
        };
        end(runtime(), farewell, |work| {
            std::thread::Builder::new().spawn(work).map(drop)
        });
        assert!(heard.await.is_ok());
    }
}
