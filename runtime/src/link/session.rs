//! One lapin connection with a generation number, and the one signal that it is down.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use super::channel::{Channels, Handle};
use super::dial::Line;
use super::socket::{WriteMux, WriteOffset};
use crate::error::{Error, Kind};
use crate::link::frame::decode::BrokerVersion;
use crate::stats::Counters;

/// How often the state is looked at besides lapin's events, which it does not promise to send.
const CHECK: Duration = Duration::from_millis(500);
/// After the end of the socket, how long lapin's reason for it is waited for: the broker may have
/// given one in `connection.close`, which lapin reads on a thread of its own.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a polite close may take before the socket is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection as long as it lasts. Everything made on it belongs to its generation and is void
/// once it is down.
#[derive(Debug)]
pub(crate) struct Session {
    generation: u64,
    connection: lapin::Connection,
    mux: WriteMux,
    channels: Channels,
    broker: Option<BrokerVersion>,
    down: watch::Sender<Option<Error>>,
    blocked: watch::Sender<Option<String>>,
    counters: Arc<Counters>,
    io: runtime::Handle,
    heartbeat: Duration,
}

impl Session {
    pub(super) fn start(
        line: Line,
        generation: u64,
        io: &runtime::Handle,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let Line {
            connection,
            mux,
            channels,
            ended,
            heartbeat,
        } = line;
        // lapin gives each event to one listener only: this is the one.
        let events = connection.events_listener();
        let session = Arc::new(Self {
            generation,
            connection,
            broker: mux.broker(),
            mux,
            channels,
            down: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
            counters,
            io: io.clone(),
            heartbeat,
        });
        io.spawn(watch_over(Arc::downgrade(&session), events, ended));
        session
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_up(&self) -> bool {
        self.down.borrow().is_none()
    }

    /// Which broker this is, if it has said so.
    pub(crate) fn broker(&self) -> Option<&BrokerVersion> {
        self.broker.as_ref()
    }

    /// Why the session is down, if it is.
    pub(super) fn reason(&self) -> Option<Error> {
        self.down.borrow().clone()
    }

    /// Completes when the session is down, with the reason.
    pub(crate) async fn down(&self) -> Error {
        let mut receiver = self.down.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason
                .clone()
                .unwrap_or_else(|| Error::new(Kind::Disconnected)),
            Err(_) => Error::new(Kind::Disconnected),
        }
    }

    /// The runtime of the connection's I/O task.
    pub(super) fn io(&self) -> &runtime::Handle {
        &self.io
    }

    /// The interval of heartbeats that was asked for.
    pub(super) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Whether the broker takes messages now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// The broker's reason for taking no messages, while that is so (`connection.blocked`).
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    /// An error of a channel, or the end of the session that explains it.
    pub(super) fn explain(&self, error: Error) -> Error {
        self.reason().unwrap_or(error)
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// The session went, or has no channel left.
    pub(super) async fn open_channel(&self) -> Result<Handle, Error> {
        let opened = self.channels.open(&self.counters).await;
        opened.map_err(|error| self.explain(error))
    }

    /// Whether a message may be handed over now: the broker takes messages, and there is room in the
    /// write buffer.
    pub(crate) fn takes_messages(&self) -> bool {
        !self.is_blocked() && self.mux.has_room()
    }

    /// Completes when a message may be handed over, or the session is down. Cancel-safe.
    ///
    /// A message that were handed over while the broker takes none would be taken later, when nobody
    /// may want it any more.
    pub(crate) async fn message_taken(&self) {
        let mut blocked = self.blocked();
        while self.is_up() && !self.takes_messages() {
            tokio::select! {
                reason = blocked.wait_for(Option::is_none) => {
                    if reason.is_err() {
                        return;
                    }
                }
                _ = self.down() => return,
            }
            tokio::select! {
                () = self.mux.room() => {}
                _ = self.down() => return,
            }
        }
    }

    /// Writes what was appended to be written later.
    pub(super) fn send(&self) {
        self.mux.send();
    }

    /// Has the I/O task write what was appended.
    pub(super) fn wake_io(&self) {
        self.mux.wake();
    }

    /// Completes when what was appended up to a mark is with the socket.
    pub(super) async fn written(&self, mark: WriteOffset) -> Result<(), Error> {
        self.mux.written(mark).await
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Closes the connection as AMQP asks (`connection.close`), within two seconds; then the socket is
    /// closed in any case.
    ///
    /// A connection that is blocked by an alarm is closed without a word: the broker reads nothing on
    /// it, and lapin writes nothing.
    pub(crate) async fn close(&self) {
        // First the reason: the close makes lapin report an end of its own.
        self.end(Error::new(Kind::Closed));
        if !self.is_blocked() {
            let text = lapin::types::ShortString::try_new("bye").unwrap_or_default();
            let closing = self.connection.close(200, text);
            // Whatever a connection that is going away answers changes nothing.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        }
        self.mux.close();
    }

    fn end(&self, reason: Error) {
        let is_first = self.down.send_if_modified(|down| {
            let first = down.is_none();
            if first {
                *down = Some(reason.clone());
            }
            first
        });
        if is_first {
            self.channels.lose(&reason);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody is left to use it; lapin says goodbye as its connection is dropped.
        self.channels.lose(&Error::new(Kind::Closed));
    }
}

async fn watch_over(
    session: std::sync::Weak<Session>,
    events: impl futures_core::Stream<Item = Event> + Send + 'static,
    mut ended: oneshot::Receiver<io::Error>,
) {
    let mut events = std::pin::pin!(events.fuse());
    let mut check = tokio::time::interval(CHECK);
    let mut broken: Option<Error> = None;
    loop {
        let event = tokio::select! {
            // In this order: the broker's own reason for the end is better than the socket's.
            biased;
            event = events.next() => event,
            error = &mut ended, if broken.is_none() => {
                let lost = Error::new(Kind::Disconnected);
                broken = Some(match error {
                    Ok(error) => lost.caused_by(error),
                    Err(_) => lost,
                });
                check.reset_after(LAST_WORDS);
                continue;
            }
            _ = check.tick() => {
                let Some(session) = session.upgrade() else { return };
                if let Some(reason) = broken.take() {
                    session.end(reason);
                    return;
                }
                if !session.connection.status().connected() {
                    session.end(Error::new(Kind::Disconnected));
                    return;
                }
                continue;
            }
        };
        let Some(session) = session.upgrade() else {
            return;
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                session.blocked.send_replace(Some(reason));
            }
            Some(Event::ConnectionUnblocked) => {
                session.blocked.send_replace(None);
            }
            Some(Event::Error(error)) => {
                session.end(Error::new(Kind::Disconnected).caused_by(error));
                return;
            }
            Some(_) => {}
            None => {
                session.end(Error::new(Kind::Disconnected));
                return;
            }
        }
    }
}
