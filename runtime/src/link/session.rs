//! One lapin connection with a generation number, and the one signal that it is down.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::convert;
use super::dial::Line;
use super::inbox::Inbox;
use super::outbox::Outbox;
use crate::error::{Error, Kind};
use crate::stats::Counters;

/// How often the state is looked at besides lapin's events, which it does not promise to send.
const CHECK: Duration = Duration::from_millis(500);
/// How long a polite close may take before the socket is simply dropped.
const CLOSE: Duration = Duration::from_secs(2);

/// A connection as long as it lasts. Everything made on it belongs to its generation and is void
/// once it is down.
#[derive(Debug)]
pub(crate) struct Session {
    generation: u64,
    connection: lapin::Connection,
    outbox: Outbox,
    inbox: Inbox,
    down: watch::Sender<Option<Error>>,
    blocked: watch::Sender<Option<String>>,
    /// What both sides agreed on.
    frame_max: u32,
    counters: Arc<Counters>,
}

/// A channel, counted for as long as it is held.
#[derive(Debug)]
pub(super) struct Counted {
    channel: lapin::Channel,
    counters: Arc<Counters>,
}

impl Deref for Counted {
    type Target = lapin::Channel;

    fn deref(&self) -> &lapin::Channel {
        &self.channel
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.channels.remove();
    }
}

impl Session {
    pub(super) fn start(
        line: Line,
        generation: u64,
        io: &Handle,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let Line {
            connection,
            outbox,
            inbox,
        } = line;
        // lapin gives each event to one listener only: this is the one.
        let events = connection.events_listener();
        let session = Arc::new(Self {
            generation,
            frame_max: connection.configuration().frame_max(),
            connection,
            outbox,
            inbox,
            down: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
            counters,
        });
        io.spawn(watch_over(Arc::downgrade(&session), events));
        session
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The largest frame both sides agreed on, in bytes; 0 is no limit.
    pub(super) fn frame_max(&self) -> u32 {
        self.frame_max
    }

    pub(crate) fn is_up(&self) -> bool {
        self.down.borrow().is_none()
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

    /// Whether the broker takes messages now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// The broker's reason for taking no messages, while that is so (`connection.blocked`).
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    /// An operation of lapin's, ended by the end of the session: some of them pend for ever when
    /// the connection dies under them.
    pub(super) async fn race<T>(
        &self,
        operation: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Error> {
        self.hear(self.outbox.bell().ringing(operation)).await
    }

    /// The same for what gives lapin nothing more to do.
    pub(super) async fn hear<T>(
        &self,
        news: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            result = news => result.map_err(convert::error),
            reason = self.down() => Err(reason),
        }
    }

    /// Something was left with lapin to be written.
    pub(super) fn ring(&self) {
        self.outbox.bell().ring();
    }

    /// The way out for what lapin does not write.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The way in for what is not lapin's to hear.
    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub(super) async fn channel(&self) -> Result<Counted, Error> {
        let channel = self.race(self.connection.create_channel()).await?;
        let counters = Arc::clone(&self.counters);
        counters.channels.add();
        Ok(Counted { channel, counters })
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Closes the connection as AMQP asks (`connection.close`), within two seconds.
    pub(super) async fn close(&self) {
        // First the reason: the farewell makes lapin report an end of its own.
        self.end(Error::new(Kind::Closed));
        let text = lapin::types::ShortString::try_new("bye").unwrap_or_default();
        let closing = self.outbox.bell().ringing(self.connection.close(200, text));
        // What a connection that is going away answers to its farewell changes nothing.
        let _ = tokio::time::timeout(CLOSE, closing).await;
    }

    fn end(&self, reason: Error) {
        self.down.send_if_modified(|down| {
            let first = down.is_none();
            if first {
                *down = Some(reason);
            }
            first
        });
    }
}

async fn watch_over(
    session: std::sync::Weak<Session>,
    events: impl futures_core::Stream<Item = Event> + Send + 'static,
) {
    let mut events = std::pin::pin!(events.fuse());
    let mut check = tokio::time::interval(CHECK);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = check.tick() => {
                let Some(session) = session.upgrade() else { return };
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
            // A channel's error arrives here as well; whoever owns the channel deals with it.
            Some(Event::Error(error))
                if error.is_amqp_soft_error() && session.connection.status().connected() =>
            {
                tracing::debug!(%error, "a channel was closed by the broker");
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
