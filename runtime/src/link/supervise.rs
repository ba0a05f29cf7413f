//! Keeps one session up: connects, watches, connects again, until the connection is closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dial::dial;
use super::session::Session;
use super::settings::Settings;
use super::state::{Board, Role};
use crate::clock;
use crate::error::{ConnectFault, Error, Kind};
use crate::escape::Escaped;
use crate::policy::retry::RetryPolicy;
use crate::random;
use crate::stats::Counters;
use crate::sync::lock;

/// A session that lived this long starts the backoff anew when it goes down.
const STABLE: Duration = Duration::from_secs(5);
/// The longest pause while the broker's port is closed: to find out costs a packet, and who waits
/// for a broker that is restarted wants to be back within a second.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// For so long after a loss: a broker that is away longer is not being restarted.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// The first pause after a session that was stable: its loss may well have been the network's.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What every session of a connection is made with.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) settings: Settings,
    pub(super) io: Handle,
    generations: AtomicU64,
    counters: Arc<Counters>,
    /// The connection that `open` made to see whether it can be made; the first role takes it.
    spare: Mutex<Option<Arc<Session>>>,
    /// The role that came first, and with it had that connection: it goes by the plain name.
    first: OnceLock<Role>,
}

impl Dialer {
    pub(super) fn new(settings: Settings, io: Handle, counters: Arc<Counters>) -> Self {
        Self {
            settings,
            io,
            generations: AtomicU64::new(0),
            counters,
            spare: Mutex::new(None),
            first: OnceLock::new(),
        }
    }

    /// One attempt, for a role or before there is one.
    pub(super) async fn connect(&self, role: Option<Role>) -> Result<Arc<Session>, Error> {
        let name = self.name(role);
        let connection = dial(&self.settings, &name, &self.io).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let counters = Arc::clone(&self.counters);
        Ok(Session::start(connection, generation, &self.io, counters))
    }

    /// The name that the broker is told (`connection_name`): the connection's own for the AMQP
    /// connection that is opened first, with the role behind it for the other one. So one that has
    /// no second goes by its own name alone.
    fn name(&self, role: Option<Role>) -> String {
        let name = &self.settings.name;
        match role {
            Some(role) if self.first.get().is_some_and(|first| *first != role) => {
                format!("{name} ({role})")
            }
            _ => name.clone(),
        }
    }

    /// Whether a link was started.
    pub(super) fn is_in_use(&self) -> bool {
        self.first.get().is_some()
    }

    pub(super) fn keep(&self, session: Arc<Session>) {
        *lock(&self.spare) = Some(session);
    }

    pub(super) fn take(&self) -> Option<Arc<Session>> {
        let spare = lock(&self.spare).take();
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
        dialer.first.get_or_init(|| role);
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
    let mut away = Instant::now();
    loop {
        let session = match next.take() {
            Some(session) => session,
            None => {
                let attempt = dialer.connect(Some(role));
                let connected = tokio::select! {
                    biased;
                    () = is_closing(&mut closing) => break,
                    connected = attempt => connected,
                };
                match connected {
                    Ok(session) => session,
                    Err(error) => {
                        failures += 1;
                        let pause = pause_after_failure(
                            &dialer.settings.backoff,
                            failures,
                            is_refused(&error).then(|| away.elapsed()),
                            random::fraction(),
                        );
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
            away = Instant::now();
        }
        let pause = pause_after_loss(&dialer.settings.backoff, failures, random::fraction());
        failures += 1;
        tokio::select! {
            () = is_closing(&mut closing) => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    board.closed(role);
    line.send_replace(Line::Closed);
}

/// Whether the system or the broker's machine said at once that nobody listens there.
fn is_refused(error: &Error) -> bool {
    matches!(error.kind(), Kind::Connect(ConnectFault::Refused))
}

/// The pause after an attempt that failed; `refused_for` is how long the connection has been away
/// if the attempt was refused. Random from half of it to the whole, by `random` from 0 to 1: many
/// clients wait for the same broker.
fn pause_after_failure(
    backoff: &RetryPolicy,
    failures: u32,
    refused_for: Option<Duration>,
    random: f64,
) -> Duration {
    let usual = backoff.jittered(failures, random);
    if refused_for.is_none_or(|away| away >= REFUSED_FOR) {
        return usual;
    }
    // Whoever asked for longer pauses has them.
    let longest = REFUSED_PAUSE.max(backoff.jittered(1, 0.0));
    usual.min(clock::fraction_of(longest, 1.0 - 0.5 * random))
}

/// The pause after a session that went down, before the first attempt. Random from nothing on: many
/// clients lose the same broker in the same moment, and not even the first attempt of each is to
/// come at once.
fn pause_after_loss(backoff: &RetryPolicy, failures: u32, random: f64) -> Duration {
    let pause = clock::fraction_of(backoff.jittered(failures.max(1), 1.0), random);
    if failures == 0 {
        pause.min(FIRST_PAUSE)
    } else {
        pause
    }
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
                        let text = Escaped(&reason);
                        tracing::warn!(%role, reason = %text, "the broker takes no messages");
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff(first: Duration, longest: Duration) -> RetryPolicy {
        let policy = RetryPolicy::default().attempts(u32::MAX);
        policy.backoff(first, longest).jitter(0.5)
    }

    #[test]
    fn while_it_is_refused_a_minute_long_the_pauses_stay_short() {
        let usual = backoff(SECOND / 10, 5 * SECOND);
        for failures in [1, 3, 10, 100, u32::MAX] {
            for random in [0.0, 0.5, 1.0] {
                let pause = |refused| pause_after_failure(&usual, failures, refused, random);
                for away in [Duration::ZERO, SECOND, REFUSED_FOR - SECOND] {
                    let pause = pause(Some(away));
                    assert!(pause <= SECOND / 2 && pause >= SECOND / 20, "{pause:?}");
                }
                // After that, and for any other fault, as asked for.
                let expected = usual.jittered(failures, random);
                for other in [Some(REFUSED_FOR), Some(Duration::MAX), None] {
                    assert_eq!(pause(other), expected);
                }
            }
        }
        // The random half spreads them.
        let early = pause_after_failure(&usual, 9, Some(SECOND), 1.0);
        let late = pause_after_failure(&usual, 9, Some(SECOND), 0.0);
        assert_eq!((early, late), (SECOND / 4, SECOND / 2));
    }

    #[test]
    fn longer_and_shorter_pauses_that_were_asked_for_hold() {
        let slow = backoff(10 * SECOND, 60 * SECOND);
        let pause = pause_after_failure(&slow, 5, Some(SECOND), 0.0);
        assert_eq!(pause, 10 * SECOND);
        let quick = backoff(SECOND / 100, SECOND / 50);
        let pause = pause_after_failure(&quick, 5, Some(SECOND), 0.0);
        assert_eq!(pause, SECOND / 50);
    }

    #[test]
    fn the_first_attempt_after_a_loss_comes_soon() {
        let usual = backoff(SECOND / 10, 5 * SECOND);
        assert_eq!(pause_after_loss(&usual, 0, 0.0), Duration::ZERO);
        assert!(pause_after_loss(&usual, 0, 1.0) <= FIRST_PAUSE);
        // One that goes down again and again is not hurried.
        assert!(pause_after_loss(&usual, 20, 1.0) >= 2 * SECOND);
    }

    proptest! {
        #[test]
        fn there_is_a_pause_for_everything(
            first: Duration,
            longest: Duration,
            failures: u32,
            away: Option<Duration>,
            random in 0.0..=1.0f64,
        ) {
            let policy = backoff(first, longest);
            let most = first.max(longest);
            prop_assert!(pause_after_failure(&policy, failures, away, random) <= most);
            prop_assert!(pause_after_loss(&policy, failures, random) <= most);
        }
    }
}
