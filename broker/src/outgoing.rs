//! What leads to one connection: the actions waiting for it, and the faults laid on it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::core::Action;

/// Answers waiting for a client that does not read: beyond this many bytes nothing more
/// is read from it.
const REPLY_WINDOW: usize = 1024 * 1024;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The socket is closed as if the process had ended in order (FIN).
    Fin,
    /// The socket is reset (RST); what was on its way is lost.
    Rst,
}

/// Which way bytes stop flowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The broker reads nothing more from the client.
    Reading,
    /// The broker writes nothing more to the client, no heartbeats either.
    Writing,
    /// Both.
    Both,
}

/// The end of a connection that others hold.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    state: Mutex<OutgoingState>,
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct OutgoingState {
    pub(crate) actions: VecDeque<Action>,
    /// Bytes of answers among the actions.
    replies: usize,
    /// The core wants nothing more from this client.
    pub(crate) paused: bool,
    pub(crate) stall_reading: bool,
    pub(crate) stall_writing: bool,
    pub(crate) cut: Option<Cut>,
}

impl Outgoing {
    pub(crate) fn lock(&self) -> MutexGuard<'_, OutgoingState> {
        // Nothing panics while it holds this lock; if it did, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an action, and wakes the connection's task.
    pub(crate) fn push(&self, action: Action) {
        let mut state = self.lock();
        match action {
            Action::Pause => state.paused = true,
            Action::Resume => state.paused = false,
            action => {
                if !action.is_delivery() {
                    state.replies += action.cost();
                }
                state.actions.push_back(action);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn cut(&self, how: Cut) {
        self.lock().cut = Some(how);
        self.wake.notify_one();
    }

    pub(crate) fn stall(&self, how: Stall) {
        let mut state = self.lock();
        state.stall_reading |= matches!(how, Stall::Reading | Stall::Both);
        state.stall_writing |= matches!(how, Stall::Writing | Stall::Both);
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        state.stall_reading = false;
        state.stall_writing = false;
        drop(state);
        self.wake.notify_one();
    }
}

impl OutgoingState {
    /// Takes the next action.
    pub(crate) fn pop(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if !action.is_delivery() {
            self.replies -= action.cost();
        }
        Some(action)
    }

    /// Whether more may be read from the client.
    pub(crate) fn may_read(&self) -> bool {
        !self.paused && !self.stall_reading && self.replies < REPLY_WINDOW
    }
}
