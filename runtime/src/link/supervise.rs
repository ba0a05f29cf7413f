//! Supervisor of a session: connects, waits for the loss, and connects again with backoff, until the
//! connection is closed. A [`Link`] is the view that the users of the session have.
//!
//! A session goes down a moment before its supervisor sets the status of the link. Therefore
//! [`Link::session`] and [`Link::ready`] check the session as well, and never return one that is known
//! to be down.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dial::dial;
use super::session::Session;
use super::settings::Settings;
use super::state::{Role, StateTracker};
use crate::clock;
use crate::error::{ConnectFault, Error, ErrorKind};
use crate::escape::Escaped;
use crate::observe::{ConnectionFact, Hooks};
use crate::policy::backoff::Backoff;
use crate::policy::retry::RetryPolicy;
use crate::random;
use crate::stats::Counters;
use crate::sync::lock;

/// The longest pause while the broker's port refuses connections. Such an attempt costs one packet, and
/// after a restart of the broker the connection should be back within a second.
const MAX_PAUSE_WHILE_REFUSED: Duration = Duration::from_millis(500);
/// The time after a loss in which the pauses are kept that short. A broker that is down for longer is
/// not being restarted.
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The longest pause before the first attempt after the loss of a stable session. The broker may be fine
/// after a short fault of the network.
const MAX_FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Opens the sessions of one connection.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) settings: Settings,
    pub(super) io: Handle,
    generations: AtomicU64,
    counters: Arc<Counters>,
    /// The session that [`ConnectionBuilder::open`](super::ConnectionBuilder::open) opened to check that
    /// the broker can be reached. The link that is started first takes it.
    preopened: Mutex<Option<Arc<Session>>>,
    /// The role of the link that was started first.
    first: OnceLock<Role>,
}

impl Dialer {
    pub(super) fn new(settings: Settings, io: Handle, counters: Arc<Counters>) -> Self {
        Self {
            settings,
            io,
            generations: AtomicU64::new(0),
            counters,
            preopened: Mutex::new(None),
            first: OnceLock::new(),
        }
    }

    /// Attempts once to open a session, for the link of a role, or for none.
    ///
    /// # Errors
    /// The reason why no address could be connected to.
    pub(super) async fn connect(&self, role: Option<Role>) -> Result<Arc<Session>, Error> {
        let name = self.name(role);
        let connection = dial(&self.settings, &name, &self.io).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let counters = Arc::clone(&self.counters);
        Ok(Session::start(connection, generation, &self.io, counters))
    }

    /// The `connection_name` for the broker: the name of the connection, with the role appended for the
    /// link that is started second. So a connection with one link has its plain name.
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

    /// Keeps a session for the link that is started first.
    pub(super) fn set_preopened(&self, session: Arc<Session>) {
        *lock(&self.preopened) = Some(session);
    }

    /// Takes that session, unless it is down.
    pub(super) fn take_preopened(&self) -> Option<Arc<Session>> {
        let preopened = lock(&self.preopened).take();
        preopened.filter(|session| session.is_up())
    }
}

/// The status of a link.
#[derive(Clone, Debug)]
enum LinkStatus {
    /// With the reason of the loss, or of the last attempt that failed; `None` before the first attempt ended.
    Down(Option<Error>),
    Up(Arc<Session>),
    Closed,
}

/// The current session of one role, across generations.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    status: watch::Receiver<LinkStatus>,
}

impl Link {
    /// Starts a supervisor. It ends when `closing` becomes true or its sender is dropped.
    pub(super) fn start(
        dialer: Arc<Dialer>,
        role: Role,
        tracker: Arc<StateTracker>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        dialer.first.get_or_init(|| role);
        let preopened = dialer.take_preopened();
        let first = preopened
            .clone()
            .map_or(LinkStatus::Down(None), LinkStatus::Up);
        let (sender, status) = watch::channel(first);
        let (io, backoff) = (dialer.io.clone(), Backoff::new(&dialer.settings.backoff));
        let supervisor = Supervisor {
            dialer,
            role,
            tracker,
            closing,
            status: sender,
            backoff,
            was_connected: false,
            lost_at: Instant::now(),
        };
        io.spawn(supervisor.run(preopened));
        Self { status }
    }

    /// The current session, or the next one if none is up.
    ///
    /// # Errors
    /// The connection was closed; there is no other error.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.ready() {
            return Ok(session);
        }
        let mut status = self.status.clone();
        loop {
            match &*status.borrow_and_update() {
                LinkStatus::Up(session) if session.is_up() => return Ok(Arc::clone(session)),
                LinkStatus::Closed => return Err(Error::new(ErrorKind::Closed)),
                _ => {}
            }
            if status.changed().await.is_err() {
                return Err(Error::new(ErrorKind::Closed));
            }
        }
    }

    /// The current session, if one is up.
    pub(crate) fn ready(&self) -> Option<Arc<Session>> {
        match &*self.status.borrow() {
            LinkStatus::Up(session) if session.is_up() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// The reason why no session is up: that of its loss, or of the last attempt to connect. `None` if one is
    /// up, or if the first attempt has not ended.
    pub(crate) fn trouble(&self) -> Option<Error> {
        match &*self.status.borrow() {
            LinkStatus::Down(reason) => reason.clone(),
            LinkStatus::Up(session) => session.down_reason(),
            LinkStatus::Closed => None,
        }
    }

    /// The error of who has waited too long for a session that takes messages: blocked, with the broker's reason, if
    /// that is the cause; otherwise a timeout, with the reason why there is no session as its source.
    pub(crate) fn timeout_error(&self) -> Error {
        let blocked = self
            .ready()
            .and_then(|session| session.blocked().borrow().clone());
        match blocked {
            Some(reason) => Error::new(ErrorKind::Blocked(reason)),
            None => Error::new(ErrorKind::Timeout).caused_by_trouble(self.trouble()),
        }
    }

    /// Completes when the connection is closed.
    pub(crate) async fn closed(&self) {
        let mut status = self.status.clone();
        // Fails if the supervisor has ended, which has the same meaning.
        let _ = status
            .wait_for(|status| matches!(status, LinkStatus::Closed))
            .await;
    }
}

/// Keeps the session of one role up, in a task of its own.
struct Supervisor {
    dialer: Arc<Dialer>,
    role: Role,
    tracker: Arc<StateTracker>,
    closing: watch::Receiver<bool>,
    status: watch::Sender<LinkStatus>,
    /// Failed attempts, and losses of sessions, since the last stable session.
    backoff: Backoff,
    /// Whether there was a session before.
    was_connected: bool,
    /// When the last stable session was lost; before the first one, when the supervisor was started.
    lost_at: Instant,
}

impl Supervisor {
    async fn run(mut self, preopened: Option<Arc<Session>>) {
        self.keep_up(preopened).await;
        self.tracker.closed(self.role);
        self.status.send_replace(LinkStatus::Closed);
    }

    /// Connects, waits for the loss of the session, and connects again. `None` when the connection is
    /// closed, as in the methods below; it never returns anything else.
    async fn keep_up(&mut self, mut preopened: Option<Arc<Session>>) -> Option<Infallible> {
        loop {
            let session = match preopened.take() {
                Some(session) => session,
                None => self.connect().await?,
            };
            self.until_lost(&session).await?;
            let (policy, failures) = (self.backoff.policy(), self.backoff.failures());
            let pause = pause_after_loss(policy, failures, random::fraction());
            self.backoff.count();
            self.pause(pause).await?;
        }
    }

    /// Attempts to connect until it succeeds.
    async fn connect(&mut self) -> Option<Arc<Session>> {
        loop {
            let connected = tokio::select! {
                biased;
                () = is_closing(&mut self.closing) => return None,
                connected = self.dialer.connect(Some(self.role)) => connected,
            };
            match connected {
                Ok(session) => return Some(session),
                Err(error) => {
                    let pause = self.attempt_failed(error);
                    self.pause(pause).await?;
                }
            }
        }
    }

    /// Reports a failed attempt and returns the pause before the next one.
    fn attempt_failed(&mut self, error: Error) -> Duration {
        self.backoff.count();
        let (role, failures) = (self.role, self.backoff.failures());
        let pause = pause_after_failure(
            self.backoff.policy(),
            failures,
            is_refused(&error).then(|| self.lost_at.elapsed()),
            random::fraction(),
        );
        // Once at WARN is enough, except for a refused login: no attempt succeeds until an operator
        // has changed something.
        if failures == 1 || error.is_bad_credentials() {
            tracing::warn!(%role, %error, source = source(&error), ?pause, "connecting to the broker failed, trying again");
        } else {
            tracing::debug!(%role, %error, failures, ?pause, "connecting to the broker failed, trying again");
        }
        self.status
            .send_replace(LinkStatus::Down(Some(error.clone())));
        self.tracker.reconnecting(role, error);
        pause
    }

    /// Publishes a session to the users of the link and waits until it is lost.
    async fn until_lost(&mut self, session: &Arc<Session>) -> Option<()> {
        let role = self.role;
        let connected_at = Instant::now();
        tracing::info!(%role, generation = session.generation(), "connected to the broker");
        let (host, port) = session.peer();
        let is_again = std::mem::replace(&mut self.was_connected, true);
        self.hooks().connection(&ConnectionFact::Connected {
            role: role.as_str(),
            is_again,
            host,
            port,
        });
        self.tracker.connected(role);
        self.status
            .send_replace(LinkStatus::Up(Arc::clone(session)));
        let hooks = self.hooks().clone();
        let reason = tokio::select! {
            () = is_closing(&mut self.closing) => {
                session.close().await;
                return None;
            }
            reason = report_blocks(session, role, &self.tracker, &hooks) => reason,
        };
        self.status
            .send_replace(LinkStatus::Down(Some(reason.clone())));
        tracing::warn!(%role, error = %reason, source = source(&reason), "connection to the broker lost");
        hooks.connection(&ConnectionFact::Lost {
            role: role.as_str(),
            error: &reason,
        });
        self.tracker.reconnecting(role, reason);
        if self.backoff.reset_if_stable(connected_at.elapsed()) {
            self.lost_at = Instant::now();
        }
        Some(())
    }

    fn hooks(&self) -> &Hooks {
        &self.dialer.settings.hooks
    }

    async fn pause(&mut self, pause: Duration) -> Option<()> {
        tokio::select! {
            () = is_closing(&mut self.closing) => None,
            () = tokio::time::sleep(pause) => Some(()),
        }
    }
}

/// Whether the connection was refused: nothing listens on the broker's port.
fn is_refused(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect(ConnectFault::Refused))
}

/// The pause after a failed attempt. If the attempt was refused, `refused_for` is the time since the
/// last stable session. The pause is between half and all of its nominal length, by `random` from 0 to
/// 1, because many clients may be waiting for the same broker.
fn pause_after_failure(
    backoff: &RetryPolicy,
    failures: u32,
    refused_for: Option<Duration>,
    random: f64,
) -> Duration {
    let usual = backoff.jittered(failures, random);
    if refused_for.is_none_or(|down| down >= RESTART_WINDOW) {
        return usual;
    }
    // A user who has set a longer first pause gets it.
    let longest = MAX_PAUSE_WHILE_REFUSED.max(backoff.jittered(1, 0.0));
    usual.min(clock::fraction_of(longest, 1.0 - 0.5 * random))
}

/// The pause after the loss of a session, before the first attempt. It is between nothing and all of its
/// nominal length, by `random` from 0 to 1: many clients may lose the same broker at the same moment,
/// and their first attempts have to be spread out, too.
fn pause_after_loss(backoff: &RetryPolicy, failures: u32, random: f64) -> Duration {
    let pause = clock::fraction_of(backoff.jittered(failures.max(1), 1.0), random);
    if failures == 0 {
        pause.min(MAX_FIRST_PAUSE)
    } else {
        pause
    }
}

/// Completes when the connection is being closed.
async fn is_closing(closing: &mut watch::Receiver<bool>) {
    // Fails if the connection was dropped, which has the same meaning.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Reports `connection.blocked` and `connection.unblocked` to the tracker until the session is down, and
/// returns the reason of that.
async fn report_blocks(
    session: &Session,
    role: Role,
    tracker: &StateTracker,
    hooks: &Hooks,
) -> Error {
    let mut blocked = session.blocked();
    loop {
        tokio::select! {
            reason = session.down() => return reason,
            changed = blocked.changed() => {
                if changed.is_err() {
                    return session.down().await;
                }
                let reason = blocked.borrow_and_update().clone();
                hooks.connection(&ConnectionFact::Blocked {
                    role: role.as_str(),
                    is_blocked: reason.is_some(),
                });
                match reason {
                    Some(reason) => {
                        let text = Escaped(&reason);
                        tracing::warn!(%role, reason = %text, "connection blocked by the broker: publishes wait");
                        tracker.blocked(role, reason);
                    }
                    None => {
                        tracing::info!(%role, "connection unblocked by the broker");
                        tracker.connected(role);
                    }
                }
            }
        }
    }
}

/// The text of an error's cause, for logs.
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
    fn pauses_stay_short_for_a_minute_while_connections_are_refused() {
        let usual = backoff(SECOND / 10, 5 * SECOND);
        for failures in [1, 3, 10, 100, u32::MAX] {
            for random in [0.0, 0.5, 1.0] {
                let pause = |refused| pause_after_failure(&usual, failures, refused, random);
                for down in [Duration::ZERO, SECOND, RESTART_WINDOW - SECOND] {
                    let pause = pause(Some(down));
                    assert!(pause <= SECOND / 2 && pause >= SECOND / 20, "{pause:?}");
                }
                // After a minute, and for other faults, the user's pauses.
                let expected = usual.jittered(failures, random);
                for other in [Some(RESTART_WINDOW), Some(Duration::MAX), None] {
                    assert_eq!(pause(other), expected);
                }
            }
        }
        // Half of the pause is random.
        let early = pause_after_failure(&usual, 9, Some(SECOND), 1.0);
        let late = pause_after_failure(&usual, 9, Some(SECOND), 0.0);
        assert_eq!((early, late), (SECOND / 4, SECOND / 2));
    }

    #[test]
    fn pauses_set_by_the_user_are_kept() {
        let slow = backoff(10 * SECOND, 60 * SECOND);
        let pause = pause_after_failure(&slow, 5, Some(SECOND), 0.0);
        assert_eq!(pause, 10 * SECOND);
        let quick = backoff(SECOND / 100, SECOND / 50);
        let pause = pause_after_failure(&quick, 5, Some(SECOND), 0.0);
        assert_eq!(pause, SECOND / 50);
    }

    #[test]
    fn the_first_attempt_after_a_loss_is_soon() {
        let usual = backoff(SECOND / 10, 5 * SECOND);
        assert_eq!(pause_after_loss(&usual, 0, 0.0), Duration::ZERO);
        assert!(pause_after_loss(&usual, 0, 1.0) <= MAX_FIRST_PAUSE);
        // A session that is lost again and again is attempted with longer pauses.
        assert!(pause_after_loss(&usual, 20, 1.0) >= 2 * SECOND);
    }

    proptest! {
        #[test]
        fn no_input_makes_a_pause_longer_than_the_longest(
            first: Duration,
            longest: Duration,
            failures: u32,
            down: Option<Duration>,
            random in 0.0..=1.0f64,
        ) {
            let policy = backoff(first, longest);
            let most = first.max(longest);
            prop_assert!(pause_after_failure(&policy, failures, down, random) <= most);
            prop_assert!(pause_after_loss(&policy, failures, random) <= most);
        }
    }
}
