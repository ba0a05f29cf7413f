//! Timers of queues (`x-message-ttl`, `x-expires`), and the memory alarm.

use std::cmp::Reverse;

use amq_protocol::protocol::{AMQPClass, connection};

use crate::{
    arguments::short,
    core::{Action, Core, Now},
    id::{ConnectionId, QueueId},
    queue::Entry,
};

impl Core {
    /// Sets the timer of a queue, unless an earlier one is set.
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
            if queue.is_expired(now.instant) {
                self.remove_queue(now, id);
            } else {
                self.dispatch(now, id);
            }
        }
    }

    /// Starts the memory alarm when messages occupy more than the limit, and ends it when a tenth of the
    /// limit is free again.
    pub(super) fn watch_memory(&mut self) {
        let used = self.memory();
        let limit = self.config.limits.memory;
        if !self.alarm && used > limit {
            self.alarm = true;
            tracing::warn!(used, limit, "memory limit exceeded: publishers are blocked");
        } else if self.alarm && used <= limit - limit / 10 {
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

    /// The bytes that messages occupy, in queues and in transit to clients.
    pub(crate) fn memory(&self) -> usize {
        self.gauge.bytes() + self.entries * size_of::<Entry>()
    }

    /// Whether publishers are blocked because the memory limit was exceeded.
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
