//! Handle of a running broker, and the broker's thread.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime,
    sync::{oneshot, watch},
};

use crate::{
    builder::BrokerBuilder,
    config::Config,
    core::{Command, ConnectionInfo, ConsumerInfo, ExchangeInfo, Operator, QueueInfo},
    fault::{Faults, Target},
    listen::{AcceptMode, accept, listen},
    net::run_timer,
    shared::Shared,
};

/// The limit for the wait for clients to close their connections when the broker shuts down.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker that runs until it is dropped or [shut down](Self::shutdown).
///
/// It runs on a thread of its own, so that it does not depend on the caller's runtime.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept_mode: Arc<AcceptMode>,
    /// The phase of the broker's life. Dropping the sender stops the broker at once.
    phase: Option<watch::Sender<Phase>>,
    thread: Option<JoinHandle<()>>,
}

/// The phase of a broker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The broker ends when its clients have closed their connections.
    Closing,
}

/// The error when a broker does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the broker on {address}")]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

impl StartError {
    /// Whether the address is in use already.
    pub fn is_address_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

impl Broker {
    /// Starts a broker on a free port of 127.0.0.1, with the virtual host `/` and the user
    /// `guest` (password `guest`).
    ///
    /// # Errors
    ///
    /// If no port can be listened on, or the broker's thread cannot be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// The URI to connect to, with the first user and the first virtual host.
    pub fn uri(&self) -> String {
        let config = &self.shared.config;
        let (user, password) = config
            .users
            .iter()
            .next()
            .map(|(name, user)| (name.as_str(), user.password.as_str()))
            .unwrap_or_default();
        let vhost = config.vhosts.first().map(|name| &**name).unwrap_or("/");
        self.uri_for(user, password, vhost)
    }

    /// The URI for a user and a virtual host, which do not have to exist.
    pub fn uri_for(&self, user: &str, password: &str, vhost: &str) -> String {
        format!(
            "amqp://{}:{}@{}/{}",
            escape(user),
            escape(password),
            self.address,
            escape(vhost)
        )
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Injects faults into the broker and its connections.
    pub fn faults(&self) -> Faults {
        Faults {
            shared: self.shared.clone(),
            accept_mode: self.accept_mode.clone(),
        }
    }

    /// All queues, by virtual host and name.
    pub fn queues(&self) -> Vec<QueueInfo> {
        self.shared.lock().core.queue_infos()
    }

    /// The queue of this name in the first virtual host that has it.
    pub fn queue(&self, name: &str) -> Option<QueueInfo> {
        self.queues().into_iter().find(|queue| queue.name == name)
    }

    /// All exchanges except the default one, by virtual host and name.
    pub fn exchanges(&self) -> Vec<ExchangeInfo> {
        self.shared.lock().core.exchange_infos()
    }

    /// All open connections, the oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.lock().core.connection_infos()
    }

    /// All consumers, the oldest first, without those of direct reply-to.
    pub fn consumers(&self) -> Vec<ConsumerInfo> {
        self.shared.lock().core.consumer_infos()
    }

    /// The bytes that messages occupy, in queues and in transit to clients.
    pub fn memory(&self) -> usize {
        self.shared.lock().core.memory()
    }

    /// The number of messages that clients have published since the broker was started, those that no queue took
    /// included. So a test can tell that nothing was sent.
    pub fn published(&self) -> u64 {
        self.shared.lock().core.published()
    }

    /// Deletes a queue as an operator does: its consumers get `basic.cancel`, and its messages are
    /// dropped. Returns whether the queue existed.
    pub fn delete_queue(&self, vhost: &str, name: &str) -> bool {
        let found = self.has_queue(vhost, name);
        let operator = Operator::DeleteQueue {
            vhost: vhost.into(),
            name: name.into(),
        };
        self.shared.apply([Command::Operator(operator)]);
        found
    }

    /// Drops the ready messages of a queue. Returns whether the queue exists.
    pub fn purge_queue(&self, vhost: &str, name: &str) -> bool {
        let found = self.has_queue(vhost, name);
        let operator = Operator::PurgeQueue {
            vhost: vhost.into(),
            name: name.into(),
        };
        self.shared.apply([Command::Operator(operator)]);
        found
    }

    /// Closes every connection (`connection.close` with code 320), waits up to 2 s for the clients'
    /// `connection.close-ok`, and stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the broker at once.
    pub async fn shutdown(self) {
        self.accept_mode.set(crate::Accept::Refuse);
        self.faults().close(
            Target::All,
            "broker forced connection closure with reason 'shutdown'",
        );
        if let Some(phase) = &self.phase {
            phase.send_replace(Phase::Closing);
            phase.closed().await;
        }
    }

    pub(crate) async fn run(address: SocketAddr, config: Config) -> Result<Self, StartError> {
        let failed = |source| StartError { address, source };
        let shared = Arc::new(Shared::new(Arc::new(config)));
        let accept_mode = Arc::new(AcceptMode::default());
        let (phase, phases) = watch::channel(Phase::Serving);
        let (started, start) = oneshot::channel();
        let (thread_shared, thread_accept_mode) = (shared.clone(), accept_mode.clone());
        let thread = thread::Builder::new()
            .name("lepus-broker".into())
            .spawn(move || run_thread(address, thread_shared, thread_accept_mode, started, phases))
            .map_err(failed)?;
        let mut broker = Self {
            address,
            shared,
            accept_mode,
            phase: Some(phase),
            thread: Some(thread),
        };
        match start.await {
            Ok(Ok(bound)) => {
                broker.address = bound;
                Ok(broker)
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::Error::other("the broker's thread ended"))),
        }
    }

    fn has_queue(&self, vhost: &str, name: &str) -> bool {
        self.queues()
            .iter()
            .any(|queue| queue.vhost == vhost && queue.name == name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.phase.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}

/// Runs the broker on its thread until it is stopped.
fn run_thread(
    address: SocketAddr,
    shared: Arc<Shared>,
    accept_mode: Arc<AcceptMode>,
    started: oneshot::Sender<io::Result<SocketAddr>>,
    mut phases: watch::Receiver<Phase>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Fails only if the future of the caller was dropped, and nobody needs the error.
            started.send(Err(error)).ok();
            return;
        }
    };
    runtime.block_on(async move {
        let (listener, address) = match listen(address).and_then(|l| Ok((l.local_addr()?, l))) {
            Ok((address, listener)) => (listener, address),
            Err(error) => {
                started.send(Err(error)).ok();
                return;
            }
        };
        if started.send(Ok(address)).is_err() {
            return;
        }
        tokio::spawn(run_timer(shared.clone()));
        tokio::spawn(accept(shared.clone(), accept_mode, listener, address));
        // An error means that the sender was dropped, which stops the broker at once.
        if phases
            .wait_for(|phase| *phase == Phase::Closing)
            .await
            .is_ok()
        {
            tokio::select! {
                () = wait_for_clients(&shared) => {}
                _ = phases.changed() => {}
            }
        }
    });
}

/// Waits until all connections are closed, or until the limit.
async fn wait_for_clients(shared: &Shared) {
    let all_closed = async {
        while !shared.lock().outgoing.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, all_closed)
        .await
        .is_err()
    {
        tracing::debug!(
            limit = ?CLOSE_TIMEOUT,
            "shutdown does not wait longer for clients that have not closed their connection"
        );
    }
}

/// Percent-encodes the characters that are not allowed in a part of a URI.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
