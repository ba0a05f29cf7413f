//! What happens by itself: messages and queues expire, memory is watched.

use std::cmp::Reverse;

use amq_protocol::protocol::{AMQPClass, connection};

use crate::{
    arguments::short,
    core::{Action, Core, Now},
    id::{ConnectionId, QueueId},
    queue::Entry,
};

impl Core {
    /// Sets a timer for a queue, unless one is set that is early enough.
    pub(super) fn arm(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let Some(deadline) = queue.deadline() else {
            return;
        };
        if queue.armed.is_none_or(|armed| armed > deadline) {
            queue.armed = Some(deadline);
            self.timers.push(Reverse((deadline, id)));
        }
    }

    pub(super) fn tick(&mut self, now: Now) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now.instant {
                break;
            }
            self.timers.pop();
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            if queue.armed == Some(at) {
                queue.armed = None;
            }
            if queue.is_abandoned(now.instant) {
                self.remove_queue(now, id);
            } else {
                self.dispatch(now, id);
            }
        }
    }

    /// Raises the alarm when messages take more than the cap, and ends it when a tenth
    /// of the cap is free again.
    pub(super) fn watch_memory(&mut self) {
        let used = self.memory();
        let cap = self.config.limits.memory;
        if !self.alarm && used > cap {
            self.alarm = true;
            tracing::warn!(used, cap, "memory cap reached: publishers are blocked");
        } else if self.alarm && used <= cap - cap / 10 {
            self.alarm = false;
            let mut blocked: Vec<ConnectionId> = self
                .connections
                .iter()
                .filter(|(_, connection)| {
                    connection.block.fault.is_none() && connection.block.paused
                })
                .map(|(id, _)| *id)
                .collect();
            blocked.sort_unstable();
            for id in blocked {
                self.unblock(id);
            }
        }
    }

    /// Bytes that messages take, in queues and on their way.
    pub(crate) fn memory(&self) -> usize {
        self.gauge.bytes() + self.entries * size_of::<Entry>()
    }

    /// Whether publishers are blocked for want of memory.
    pub(crate) fn is_alarmed(&self) -> bool {
        self.alarm
    }

    pub(super) fn send_blocked(&mut self, id: ConnectionId, reason: &str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.client.supports_blocked && !connection.block.notified {
            connection.block.notified = true;
            let blocked = connection::Blocked {
                reason: short(reason),
            };
            self.send(
                id,
                0,
                AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)),
            );
        }
    }

    pub(super) fn unblock(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let block = std::mem::take(&mut connection.block);
        if block.paused {
            self.act(id, Action::Resume);
        }
        if block.notified {
            let unblocked = connection::Unblocked {};
            self.send(
                id,
                0,
                AMQPClass::Connection(connection::AMQPMethod::Unblocked(unblocked)),
            );
        }
    }
}
