//! Outgoing actions of one connection: the queue between the core and the connection's task, and the
//! faults that are injected into the connection.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::core::Action;

/// The limit of replies, in bytes, that wait for a client that does not read. Above it, nothing more is
/// read from the client.
const REPLY_WINDOW: usize = 1024 * 1024;

/// The way in which a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The socket is closed in order (FIN), as at the end of a process.
    Fin,
    /// The socket is reset (RST). Bytes in transit are lost.
    Rst,
}

/// The direction in which a connection stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The broker reads no more bytes from the client.
    Reading,
    /// The broker writes no more bytes to the client, heartbeats included.
    Writing,
    /// Both.
    Both,
}

/// The outgoing actions of a connection. The core's side appends to it, the connection's task takes from
/// it.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    state: Mutex<OutgoingState>,
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct OutgoingState {
    pub(crate) actions: VecDeque<Action>,
    /// The bytes of replies among the actions.
    replies: usize,
    /// The core does not want this client to be read from.
    pub(crate) paused: bool,
    pub(crate) stall_reading: bool,
    pub(crate) stall_writing: bool,
    pub(crate) cut: Option<Cut>,
}

impl Outgoing {
    pub(crate) fn lock(&self) -> MutexGuard<'_, OutgoingState> {
        // No operation under this lock leaves the state inconsistent, so a panic does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an action, and wakes the connection's task.
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

    /// Whether the client may be read from.
    pub(crate) fn may_read(&self) -> bool {
        !self.paused && !self.stall_reading && self.replies < REPLY_WINDOW
    }
}
