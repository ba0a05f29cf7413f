//! The core and the outgoing around it, behind one lock that is taken once a batch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use crate::{
    config::Config,
    core::{Command, Core, Effect, Now},
    id::ConnectionId,
    outgoing::Outgoing,
};

/// While memory is short, how often it is looked at: it also frees up when clients read,
/// which is no command.
const ALARM_POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    state: Mutex<SharedState>,
    /// The next timeout has moved forward.
    pub(crate) timer: Notify,
    last_connection: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct SharedState {
    pub(crate) core: Core,
    pub(crate) outgoing: HashMap<ConnectionId, Arc<Outgoing>>,
    effects: Vec<Effect>,
    armed: Option<Instant>,
}

impl Shared {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let core = Core::new(config.clone());
        Self {
            config,
            state: Mutex::new(SharedState {
                core,
                outgoing: HashMap::new(),
                effects: Vec::new(),
                armed: None,
            }),
            timer: Notify::new(),
            last_connection: AtomicU64::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SharedState> {
        // A panic inside would be a bug of this crate; the others go on as well as they can.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Gives commands to the core and passes on what follows.
    pub(crate) fn apply(&self, commands: impl IntoIterator<Item = Command>) {
        let mut state = self.lock();
        let state = &mut *state;
        let now = now();
        for command in commands {
            state.handle(now, command);
        }
        self.arm(state);
    }

    /// Wakes the timer if it sleeps too long.
    pub(crate) fn arm(&self, state: &mut SharedState) {
        let next = state.next_timeout();
        if let Some(next) = next
            && state.armed.is_none_or(|armed| next < armed)
        {
            state.armed = Some(next);
            self.timer.notify_one();
        }
    }

    /// What is due is done; tells when to come again.
    pub(crate) fn tick(&self) -> Option<Instant> {
        let mut state = self.lock();
        state.handle(now(), Command::Tick);
        state.armed = state.next_timeout();
        state.armed
    }
}

impl SharedState {
    pub(crate) fn handle(&mut self, now: Now, command: Command) {
        self.core.handle(now, command, &mut self.effects);
        for effect in self.effects.drain(..) {
            if let Some(outgoing) = self.outgoing.get(&effect.connection) {
                outgoing.push(effect.action);
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let next = self.core.next_timeout();
        if self.core.is_alarmed() {
            let poll = Instant::now() + ALARM_POLL;
            return Some(next.map_or(poll, |next| next.min(poll)));
        }
        next
    }
}

pub(crate) fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    }
}
