//! Session: one AMQP connection with a generation number, and the signal that it is down.
//!
//! A session can end in several ways: the broker sends `connection.close`, the socket breaks, lapin
//! misses heartbeats, or the owner closes it. The first of them to be noticed sets `down` with its
//! reason and marks every channel as lost. Later ones change nothing, so all users of the session see
//! the same reason.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use super::dial::DialedConnection;
use super::socket::channels::{ChannelHandle, Channels};
use super::socket::{PipeEnd, WriteMux, WriteOffset};
use crate::error::{Error, ErrorKind};
use crate::link::frame::decode::BrokerVersion;
use crate::stats::Counters;

/// The interval in which lapin's status is read. lapin does not guarantee an event for every end of a
/// connection.
const CHECK: Duration = Duration::from_millis(500);
/// After the end of the socket, how long to wait for lapin to report a reason: the broker may have given
/// one in `connection.close`, which lapin reads on a thread of its own.
const CLOSE_REASON_TIMEOUT: Duration = Duration::from_millis(100);
/// The limit for the wait for `connection.close-ok`, after which the socket is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One AMQP connection. Channels, consumers and delivery tags belong to its generation, and are void
/// once it is down.
#[derive(Debug)]
pub(crate) struct Session {
    generation: u64,
    /// Host and port of the broker.
    peer: (String, u16),
    connection: lapin::Connection,
    mux: WriteMux,
    channels: Channels,
    lapin_end: PipeEnd,
    broker: Option<BrokerVersion>,
    down: watch::Sender<Option<Error>>,
    blocked: watch::Sender<Option<String>>,
    counters: Arc<Counters>,
    io: runtime::Handle,
}

impl Session {
    pub(super) fn start(
        (dialed, peer): (DialedConnection, (String, u16)),
        generation: u64,
        io: &runtime::Handle,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let DialedConnection {
            connection,
            mux,
            channels,
            lapin_end,
            io_error,
        } = dialed;
        // lapin gives each event to one listener only, so there must be no other.
        let events = connection.events_listener();
        let session = Arc::new(Self {
            generation,
            peer,
            connection,
            broker: mux.broker(),
            mux,
            channels,
            lapin_end,
            down: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
            counters,
            io: io.clone(),
        });
        io.spawn(watch(Arc::downgrade(&session), events, io_error));
        session
    }

    /// The runtime of the connection's I/O task.
    pub(super) fn io(&self) -> &runtime::Handle {
        &self.io
    }

    /// The negotiated heartbeat interval.
    pub(super) fn heartbeat(&self) -> Duration {
        let seconds = self.mux.negotiated().map_or(0, |tune| tune.heartbeat);
        Duration::from_secs(seconds.into())
    }

    /// Host and port of the broker, as they are in its URI.
    pub(super) fn peer(&self) -> (&str, u16) {
        (&self.peer.0, self.peer.1)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_up(&self) -> bool {
        self.down.borrow().is_none()
    }

    /// The broker's product and version.
    pub(crate) fn broker(&self) -> Option<&BrokerVersion> {
        self.broker.as_ref()
    }

    /// The reason why the session is down, if it is.
    pub(super) fn down_reason(&self) -> Option<Error> {
        self.down.borrow().clone()
    }

    /// Completes with the reason when the session goes down.
    pub(crate) async fn down(&self) -> Error {
        let mut receiver = self.down.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason
                .clone()
                .unwrap_or_else(|| Error::new(ErrorKind::Disconnected)),
            Err(_) => Error::new(ErrorKind::Disconnected),
        }
    }

    /// Whether the broker has blocked the connection (`connection.blocked`).
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// The broker's reason for blocking the connection; `None` while it is not blocked.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    /// The reason why the session is down, if it is: it explains the error of a channel. Otherwise the
    /// error itself.
    pub(super) fn explain(&self, error: Error) -> Error {
        self.down_reason().unwrap_or(error)
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// The session is down, or has no free channel number.
    pub(super) async fn open_channel(&self) -> Result<ChannelHandle, Error> {
        let opened = self.channels.open(&self.counters).await;
        opened.map_err(|error| self.explain(error))
    }

    /// Whether a message may be published now: the connection is not blocked, and the write buffer is
    /// below its high-water mark.
    pub(crate) fn takes_messages(&self) -> bool {
        !self.is_blocked() && self.mux.has_room()
    }

    /// Completes when a message may be published, or when the session goes down. Cancel-safe.
    ///
    /// A message that is written while the connection is blocked stays in the socket until the alarm is
    /// over, and is then processed although its publisher may have timed out.
    pub(crate) async fn writable(&self) {
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

    /// Writes the frames that were appended with [`Flush::Deferred`](super::socket::Flush::Deferred).
    pub(super) fn flush(&self) {
        self.mux.flush();
    }

    /// Wakes the I/O task to write the frames that were appended.
    pub(super) fn wake_io(&self) {
        self.mux.wake();
    }

    /// Completes when everything appended up to `offset` has been written to the socket.
    ///
    /// # Errors
    /// The connection was closed before that.
    pub(super) async fn flushed(&self, offset: WriteOffset) -> Result<(), Error> {
        self.mux.flushed(offset).await
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Closes the connection with `connection.close`, and closes the socket when the broker has replied and lapin
    /// has ended, or after two seconds.
    ///
    /// If the connection is blocked, only the socket is closed: the broker does not read from it, and
    /// lapin does not write to it.
    pub(crate) async fn close(&self) {
        // Before lapin's close, because lapin reports that as an error, which would be the reason.
        self.set_down(Error::new(ErrorKind::Closed));
        if !self.is_blocked() {
            let text = lapin::types::ShortString::try_new("bye").unwrap_or_default();
            let closing = async {
                if self.connection.close(200, text).await.is_ok() {
                    // lapin has to end before its runtime and its stream do, or it logs errors.
                    self.lapin_end.wait().await;
                }
            };
            // The socket is closed below in any case.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        }
        self.mux.close();
    }

    /// Sets the reason why the session is down, unless it is down already, and marks all channels as
    /// lost.
    fn set_down(&self, reason: Error) {
        let is_first = self.down.send_if_modified(|down| {
            let first = down.is_none();
            if first {
                *down = Some(reason.clone());
            }
            first
        });
        if is_first {
            self.channels.connection_lost(&reason);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropping lapin's connection sends `connection.close`.
        self.channels
            .connection_lost(&Error::new(ErrorKind::Closed));
    }
}

/// Watches lapin's events, its status and the I/O task until the session is down.
async fn watch(
    session: std::sync::Weak<Session>,
    events: impl futures_core::Stream<Item = Event> + Send + 'static,
    mut io_error: oneshot::Receiver<io::Error>,
) {
    let mut events = std::pin::pin!(events.fuse());
    let mut check = tokio::time::interval(CHECK);
    let mut broken: Option<Error> = None;
    loop {
        let event = tokio::select! {
            // In this order, because the reason in the broker's `connection.close` is better than the
            // socket's error.
            biased;
            event = events.next() => event,
            error = &mut io_error, if broken.is_none() => {
                let lost = Error::new(ErrorKind::Disconnected);
                broken = Some(match error {
                    Ok(error) => lost.caused_by(error),
                    Err(_) => lost,
                });
                check.reset_after(CLOSE_REASON_TIMEOUT);
                continue;
            }
            _ = check.tick() => {
                let Some(session) = session.upgrade() else { return };
                if let Some(reason) = broken.take() {
                    session.set_down(reason);
                    return;
                }
                if !session.connection.status().connected() {
                    session.set_down(Error::new(ErrorKind::Disconnected));
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
                session.set_down(Error::new(ErrorKind::Disconnected).caused_by(error));
                return;
            }
            Some(_) => {}
            None => {
                session.set_down(Error::new(ErrorKind::Disconnected));
                return;
            }
        }
    }
}
