//! Connection of a user: two links to the broker, for publishing and for consuming, each started when it
//! is first used.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::channel::delete_declared;
use super::close_gate::CloseGate;
use super::io_thread::IoThread;
use super::namespace::Namespace;
use super::session::Session;
use super::settings::Settings;
use super::state::{ConnectionState, Role, StateTracker};
use super::supervise::{Dialer, Link};
use crate::context::PropagatedHeaders;
use crate::error::Error;
use crate::meter::Meters;
use crate::observe::Hooks;
use crate::policy::retry::RetryPolicy;
use crate::stats::{Counters, MethodStats, Stats};
use crate::sync::lock;

/// A connection to RabbitMQ. Cheap to clone; dropping the last clone closes it.
///
/// ```no_run
/// # async fn example() -> Result<(), lepus::Error> {
/// use std::time::Duration;
///
/// use lepus::{Connection, WorkQueue};
///
/// // With the defaults: `Connection::open("amqp://guest:guest@localhost").await?`.
/// let connection = Connection::builder("amqp://guest:guest@localhost/%2F")
///     .heartbeat(Duration::from_secs(20))
///     .open()
///     .await?;
/// // Clients, servers, producers, workers and subscriptions share it.
/// WorkQueue::<String>::new("mails").producer(&connection).push(&"hare@example.org".to_owned()).await?;
/// connection.close().await;
/// # Ok(())
/// # }
/// ```
///
/// It holds up to two AMQP connections, each opened when it is first used: one to publish requests,
/// jobs and events and to receive replies, and one to consume deliveries and to acknowledge them.
///
/// The reason for two is RabbitMQ's memory and disk alarm, under which it stops reading from
/// connections that publish. Worker pools and subscriptions publish nothing on the connection that they
/// consume from, so they can acknowledge during an alarm. A server cannot: it publishes its replies on
/// the connection that it consumes from. Acknowledgements of worker pools and subscriptions on the same
/// `Connection` wait with it.
///
/// A connection that is lost is established again, with jittered backoff and without a limit of
/// attempts, until [`close`](Self::close) is called; queues and consumers are then set up again.
/// [`state`](Self::state) shows the progress.
///
/// By default the sockets are read and written on a thread of the connection's own, so that a handler
/// that blocks its thread does not delay heartbeats ([`Io`](crate::amqp::Io)). Handlers and other code of the
/// user run on the tokio runtime on which the connection was opened, and when that runtime ends, the
/// connection is closed. The connection may be used from other tokio runtimes. Using it from a thread
/// without one is an error ([`is_invalid`](Error::is_invalid)).
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

/// A reference that does not keep a connection open.
#[derive(Clone)]
pub(crate) struct WeakConnection(Weak<Inner>);

impl WeakConnection {
    /// The connection, unless its last clone was dropped.
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        let inner = self.0.upgrade()?;
        Some(Connection { inner })
    }
}

/// Closes the connection when the runtime ends on which it was opened. A task on that runtime holds it,
/// and it is dropped with the task.
struct RuntimeGuard {
    dialer: Arc<Dialer>,
    tracker: Arc<StateTracker>,
    closing: watch::Sender<bool>,
}

impl RuntimeGuard {
    /// Starts the task, which ends when the connection is closed.
    fn watch(self, tasks: &Handle) {
        let mut closing = self.closing.subscribe();
        tasks.spawn(async move {
            // Cannot fail: the guard holds a sender.
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
        tracing::warn!("connection closed: the runtime on which it was opened has ended");
        if let Some(preopened) = self.dialer.take_preopened() {
            self.dialer.io.spawn(async move { preopened.close().await });
        }
        // Once there are links, their supervisors set the state, after they have closed their sessions.
        if !self.dialer.is_in_use() {
            self.tracker.closed_all();
        }
    }
}

struct Inner {
    dialer: Arc<Dialer>,
    close_gate: CloseGate,
    tracker: Arc<StateTracker>,
    namespace: Namespace,
    closing: watch::Sender<bool>,
    publishing: OnceLock<Link>,
    consuming: OnceLock<Link>,
    tasks: Handle,
    shared: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    counters: Arc<Counters>,
    meters: Meters,
    io: Option<IoThread>,
}

impl Connection {
    /// Starts a connection that is not connected yet. `own` is a thread of its own for reading and
    /// writing; without one it is done on `tasks`.
    pub(super) fn new(settings: Settings, tasks: Handle, own: Option<IoThread>) -> Self {
        let io = own.as_ref().map_or(&tasks, IoThread::handle).clone();
        let namespace = Namespace::new(settings.namespace.clone());
        let counters = Arc::<Counters>::default();
        let meters = Meters::new(settings.hooks.observe.clone());
        let dialer = Arc::new(Dialer::new(settings, io, Arc::clone(&counters)));
        let (tracker, closing) = (Arc::new(StateTracker::new()), watch::Sender::new(false));
        let guard = RuntimeGuard {
            dialer: Arc::clone(&dialer),
            tracker: Arc::clone(&tracker),
            closing: closing.clone(),
        };
        guard.watch(&tasks);
        Self {
            inner: Arc::new(Inner {
                dialer,
                close_gate: CloseGate::default(),
                tracker,
                namespace,
                closing,
                publishing: OnceLock::new(),
                consuming: OnceLock::new(),
                tasks,
                shared: Mutex::new(HashMap::new()),
                counters,
                meters,
                io: own,
            }),
        }
    }

    /// Connects once, for the link that is started first.
    ///
    /// # Errors
    /// The reason why no address could be connected to.
    pub(super) async fn open_first(&self) -> Result<(), Error> {
        let dialer = &self.inner.dialer;
        dialer.set_preopened(dialer.connect(None).await?);
        Ok(())
    }

    /// The state of the connection, to read or to wait on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.tracker.watch()
    }

    /// A snapshot of the connection's counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.read()
    }

    /// A snapshot of the figures of each method that this connection serves: methods of services, tasks, and
    /// the jobs and events of each queue or exchange whose handlers run here. They are in the order in which
    /// their servers, pools and subscriptions were first started, and stay when those are stopped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = lepus_broker::Broker::start().await?;
    /// # let connection = lepus::Connection::open(&broker.uri()).await?;
    /// #[lepus::service]
    /// trait Calculator {
    ///     async fn fib(&self, n: u64) -> u64;
    /// }
    /// # struct CalculatorService;
    /// # impl Calculator for CalculatorService {
    /// #     async fn fib(&self, n: u64) -> u64 {
    /// #         n
    /// #     }
    /// # }
    ///
    /// let calculator = CalculatorServer::new(CalculatorService);
    /// let server = lepus::Server::new(&connection).serve(calculator).start().await?;
    /// CalculatorClient::new(&connection).fib(30).await?;
    ///
    /// for method in connection.stats_by_method() {
    ///     let (service, name) = (&method.service, &method.method);
    ///     let failed = method.panics + method.stopped;
    ///     let mean = method.duration.mean().unwrap_or_default();
    ///     println!("{service}/{name}: {} requests, {failed} failed, {mean:?} each", method.requests);
    ///     assert_eq!((method.requests, failed), (1, 0));
    /// }
    /// # server.stop().await?;
    /// # connection.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats_by_method(&self) -> Vec<MethodStats> {
        self.inner.meters.read()
    }

    /// Deletes the queues and exchanges that this connection has declared in its
    /// [`namespace`](crate::amqp::ConnectionBuilder::namespace), with their messages, so that a test leaves nothing
    /// behind. Stop its servers, workers and subscriptions first: they declare again what they need.
    ///
    /// AMQP has no list of queues. What other connections or earlier runs have declared in the same namespace
    /// stays, unless this connection has declared it as well. Without a namespace this does nothing.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), lepus::Error> {
    /// # let uri = "amqp://127.0.0.1";
    /// let connection = lepus::Connection::builder(uri).namespace("test-7").open().await?;
    /// lepus::WorkQueue::<String>::new("mails").declare(&connection).await?;
    /// connection.delete_namespace().await?; // `test-7.mails` and `test-7.mails.dead`
    /// connection.close().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses. What is not deleted yet is deleted by the next
    /// call.
    ///
    /// # Cancel safety
    /// If the future is dropped, a part may be deleted.
    pub async fn delete_namespace(&self) -> Result<(), Error> {
        let session = self.consuming().session().await?;
        delete_declared(&session, self.namespace()).await
    }

    /// Closes the connection. Calls and pushes in progress fail with
    /// [`is_closed`](Error::is_closed); servers and workers stop. Closing twice is not an error.
    ///
    /// Servers are told of calls that were [given up](crate::Call#cancel-safety) before it closes, for which it waits half
    /// a second at the most. It returns when the broker has confirmed the close, or after two seconds.
    ///
    /// # Cancel safety
    /// If the future is dropped, the close goes on in the background.
    pub async fn close(&self) {
        self.begin_close().await;
        if let Some(preopened) = self.inner.dialer.take_preopened() {
            // Spawned, so that it goes on if this future is dropped, and on the runtime that has timers
            // wherever `close` was called.
            let closing = self.io().spawn(async move { preopened.close().await });
            // Fails only if the runtime has ended, and the session with it.
            let _ = closing.await;
        }
        for link in self.inner.links() {
            link.closed().await;
        }
        self.inner.tracker.closed_all();
    }

    /// Ends the links, once the messages that were to leave before are written.
    async fn begin_close(&self) {
        let (gate, closing) = (self.inner.close_gate.clone(), self.inner.closing.clone());
        if !gate.is_held() {
            closing.send_replace(true);
            return;
        }
        // Spawned for the reasons below.
        let waiting = self.io().spawn(async move {
            gate.released().await;
            closing.send_replace(true);
        });
        // Fails only if the runtime has ended, and the links with it.
        let _ = waiting.await;
    }

    /// The messages that a close waits for.
    pub(crate) fn close_gate(&self) -> &CloseGate {
        &self.inner.close_gate
    }

    /// The link for publishing and for replies to requests.
    pub(crate) fn publishing(&self) -> &Link {
        self.inner.link(&self.inner.publishing, Role::Publishing)
    }

    /// The link for consuming and for the replies of servers.
    pub(crate) fn consuming(&self) -> &Link {
        self.inner.link(&self.inner.consuming, Role::Consuming)
    }

    /// Opens a session that nothing else uses, for operations that may make the broker close it. The
    /// caller closes it.
    ///
    /// # Errors
    /// The reason why no address could be connected to.
    pub(crate) async fn open_separate_session(&self) -> Result<Arc<Session>, Error> {
        self.inner.dialer.connect(None).await
    }

    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.inner))
    }

    /// The runtime on which the connection was opened, for handlers and other code of the user.
    pub(crate) fn tasks(&self) -> &Handle {
        &self.inner.tasks
    }

    /// The runtime of the I/O task, for work that must not wait for the user's code.
    pub(crate) fn io(&self) -> &Handle {
        &self.inner.dialer.io
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// The connection's name, if the user has set one. Messages carry it as `app_id`.
    pub(crate) fn given_name(&self) -> Option<&str> {
        let settings = &self.inner.dialer.settings;
        settings.is_named.then_some(&*settings.name)
    }

    /// The headers that messages take over from the current context.
    pub(crate) fn propagated(&self) -> &PropagatedHeaders {
        &self.inner.dialer.settings.propagated
    }

    /// The facts that the user wants others to see of this connection.
    pub(crate) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.dialer.settings.metadata
    }

    /// Whether this connection answers questions about what it serves.
    pub(crate) fn has_control(&self) -> bool {
        self.inner.dialer.settings.has_control
    }

    /// The user name of all addresses; `None` if they have different ones.
    pub(crate) fn user(&self) -> Option<&str> {
        let addresses = &self.inner.dialer.settings.addresses;
        let mut users = addresses
            .iter()
            .map(|address| address.0.authority.userinfo.username.as_str());
        let first = users.next()?;
        users.all(|user| user == first).then_some(first)
    }

    /// The largest message that is sent or accepted, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.inner.dialer.settings.max_message
    }

    /// The backoff between attempts to set up a consumer or a channel.
    pub(crate) fn backoff(&self) -> &RetryPolicy {
        &self.inner.dialer.settings.backoff
    }

    /// The meters of the methods that this connection serves.
    pub(crate) fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.inner.dialer.settings.hooks
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.counters)
    }

    /// A value that is shared by all users of this connection: `make` is called for the first one of
    /// them.
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
            let (dialer, tracker) = (Arc::clone(&self.dialer), Arc::clone(&self.tracker));
            Link::start(dialer, role, tracker, self.closing.subscribe())
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
        let preopened = self.dialer.take_preopened();
        let close = async move {
            if let Some(preopened) = preopened {
                preopened.close().await;
            }
            for link in links {
                link.closed().await;
            }
        };
        io.end(close);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let settings = &self.inner.dialer.settings;
        f.debug_struct("Connection")
            .field("name", &settings.name)
            .field("addresses", &settings.addresses)
            .field("state", &*self.inner.tracker.watch().borrow())
            .finish_non_exhaustive()
    }
}
