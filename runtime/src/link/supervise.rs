//! Keeps one session up: connects, watches, connects again, until shutdown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dial::dial;
use super::session::Session;
use super::settings::Settings;
use super::state::{Board, Role};
use crate::error::{Error, Kind};
use crate::random;
use crate::stats::Counters;

/// A session that lived this long starts the backoff anew when it goes down.
const STABLE: Duration = Duration::from_secs(5);

/// What every session of a connection is made with.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) settings: Settings,
    pub(super) io: Handle,
    generations: AtomicU64,
    counters: Arc<Counters>,
    /// The connection that `open` made to see whether it can be made; the first role takes it.
    spare: Mutex<Option<Arc<Session>>>,
}

impl Dialer {
    pub(super) fn new(settings: Settings, io: Handle, counters: Arc<Counters>) -> Self {
        Self {
            settings,
            io,
            generations: AtomicU64::new(0),
            counters,
            spare: Mutex::new(None),
        }
    }

    /// One attempt.
    pub(super) async fn connect(&self) -> Result<Arc<Session>, Error> {
        let connection = dial(&self.settings, &self.io).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let counters = Arc::clone(&self.counters);
        Ok(Session::start(connection, generation, &self.io, counters))
    }

    pub(super) fn keep(&self, session: Arc<Session>) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    pub(super) fn take(&self) -> Option<Arc<Session>> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        spare.filter(|session| session.is_up())
    }
}

#[derive(Clone, Debug)]
enum Line {
    Down,
    Up(Arc<Session>),
    Closed,
}

/// One role's session, whichever generation it is in.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    line: watch::Receiver<Line>,
}

impl Link {
    /// Starts keeping a session up. It ends when `closing` turns true or its sender goes.
    pub(super) fn start(
        dialer: Arc<Dialer>,
        role: Role,
        board: Arc<Board>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let spare = dialer.take();
        let first = spare.clone().map_or(Line::Down, Line::Up);
        let (sender, line) = watch::channel(first);
        let io = dialer.io.clone();
        io.spawn(supervise(dialer, role, board, closing, sender, spare));
        Self { line }
    }

    /// The session that is up, or the next one that is.
    ///
    /// # Errors
    /// Only that the connection was closed.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.ready() {
            return Ok(session);
        }
        let mut line = self.line.clone();
        loop {
            match &*line.borrow_and_update() {
                Line::Up(session) if session.is_up() => return Ok(Arc::clone(session)),
                Line::Closed => return Err(Error::new(Kind::Closed)),
                _ => {}
            }
            if line.changed().await.is_err() {
                return Err(Error::new(Kind::Closed));
            }
        }
    }

    /// The session that is up, if one is.
    pub(crate) fn ready(&self) -> Option<Arc<Session>> {
        match &*self.line.borrow() {
            Line::Up(session) if session.is_up() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Completes when the connection is closed for good.
    pub(crate) async fn closed(&self) {
        let mut line = self.line.clone();
        // An error means that the supervisor is gone, which is closed as well.
        let _ = line.wait_for(|line| matches!(line, Line::Closed)).await;
    }
}

async fn supervise(
    dialer: Arc<Dialer>,
    role: Role,
    board: Arc<Board>,
    mut closing: watch::Receiver<bool>,
    line: watch::Sender<Line>,
    mut next: Option<Arc<Session>>,
) {
    let mut failures = 0;
    loop {
        let session = match next.take() {
            Some(session) => session,
            None => {
                let attempt = dialer.connect();
                let connected = tokio::select! {
                    biased;
                    () = is_closing(&mut closing) => break,
                    connected = attempt => connected,
                };
                match connected {
                    Ok(session) => session,
                    Err(error) => {
                        failures += 1;
                        let pause = dialer
                            .settings
                            .backoff
                            .jittered(failures, random::fraction());
                        if failures == 1 || error.is_bad_credentials() {
                            tracing::warn!(%role, %error, source = ?source(&error), ?pause, "no connection, trying again");
                        } else {
                            tracing::debug!(%role, %error, failures, ?pause, "no connection, trying again");
                        }
                        board.reconnecting(role, error);
                        tokio::select! {
                            () = is_closing(&mut closing) => break,
                            () = tokio::time::sleep(pause) => continue,
                        }
                    }
                }
            }
        };
        let since = Instant::now();
        tracing::info!(%role, generation = session.generation(), "connected to the broker");
        board.connected(role);
        line.send_replace(Line::Up(Arc::clone(&session)));
        let reason = tokio::select! {
            () = is_closing(&mut closing) => {
                session.close().await;
                break;
            }
            reason = report_blocks(&session, role, &board) => reason,
        };
        line.send_replace(Line::Down);
        tracing::warn!(%role, error = %reason, source = ?source(&reason), "connection lost");
        board.reconnecting(role, reason);
        if since.elapsed() >= STABLE {
            failures = 0;
        }
        // Many clients lose the same broker at the same moment: not even the first attempt of
        // each comes at once.
        let pause = dialer
            .settings
            .backoff
            .jittered(failures.max(1), 1.0)
            .mul_f64(random::fraction());
        let pause = if failures == 0 {
            pause.min(Duration::from_millis(50))
        } else {
            pause
        };
        failures += 1;
        tokio::select! {
            () = is_closing(&mut closing) => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    board.closed(role);
    line.send_replace(Line::Closed);
}

async fn is_closing(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone is a connection that was dropped.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Tells the board of `connection.blocked` and `unblocked` until the session is down.
async fn report_blocks(session: &Session, role: Role, board: &Board) -> Error {
    let mut blocked = session.blocked();
    loop {
        tokio::select! {
            reason = session.down() => return reason,
            changed = blocked.changed() => {
                if changed.is_err() {
                    return session.down().await;
                }
                match blocked.borrow_and_update().clone() {
                    Some(reason) => {
                        tracing::warn!(%role, %reason, "the broker takes no messages");
                        board.blocked(role, reason);
                    }
                    None => {
                        tracing::info!(%role, "the broker takes messages again");
                        board.connected(role);
                    }
                }
            }
        }
    }
}

fn source(error: &Error) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}
