//! The broker without sockets, threads and a clock: bytes in, bytes out, faults between them.
//!
//! Made for simulations of clients in one thread, which have to go the same way each time. Behind a
//! feature, hidden, and no part of the API: it changes whenever a simulation wants something else.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    builder::BrokerBuilder,
    config::Config,
    core::{Action, Command, ConnectionInfo, Core, Effect, Now, Operator, Outcome, QueueInfo},
    exception::{Code, precondition_failed},
    id::ConnectionId,
    net::AckBatch,
    session::{Event, Session},
};

/// The time of a death in `x-death`.
const UNIX: u64 = 1_700_000_000;
const VHOST: &str = "/";

/// A broker and the connections to it.
#[derive(Debug)]
pub struct SimBroker {
    config: Arc<Config>,
    core: Core,
    connections: BTreeMap<ConnectionId, SimConnection>,
    now: Instant,
    last: u64,
}

/// One connection.
#[derive(Debug)]
struct SimConnection {
    session: Session,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Cost of the deliveries in `output`.
    delivered: usize,
    acks: AckBatch,
    /// The client may not publish, and is not read from.
    is_paused: bool,
    is_ended: bool,
}

impl SimBroker {
    /// A broker with these settings; the address does not matter.
    pub fn new(builder: BrokerBuilder) -> Self {
        let config = Arc::new(builder.config());
        Self {
            core: Core::new(Arc::clone(&config)),
            config,
            connections: BTreeMap::new(),
            now: Instant::now(),
            last: 0,
        }
    }

    /// A connection, which begins with the protocol header of the client.
    pub fn connect(&mut self) -> ConnectionId {
        self.last += 1;
        let id = ConnectionId(self.last);
        let connection = SimConnection {
            session: Session::new(id, Arc::clone(&self.config), String::new(), self.now),
            input: Vec::new(),
            output: Vec::new(),
            delivered: 0,
            acks: AckBatch::default(),
            is_paused: false,
            is_ended: false,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Takes bytes of a client.
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.input.extend_from_slice(bytes);
        if connection.is_paused {
            return;
        }
        let mut events = Vec::new();
        let used = connection
            .session
            .receive(now, &connection.input, &mut events);
        connection.input.drain(..used.min(connection.input.len()));
        for event in events {
            match event {
                Event::Core(command) => self.handle(command),
                Event::Send(action) => self.send(id, action),
                Event::Raw(bytes) => {
                    self.append(id, |connection| connection.output.extend_from_slice(bytes))
                }
                Event::End => self.append(id, |connection| connection.is_ended = true),
            }
        }
    }

    /// Takes what was written for a client since this was last asked.
    pub fn output(&mut self, id: ConnectionId) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Vec::new();
        };
        connection
            .acks
            .write(&mut connection.session, &mut connection.output);
        let output = std::mem::take(&mut connection.output);
        let delivered = std::mem::take(&mut connection.delivered);
        if delivered > 0 {
            self.handle(Command::Flushed(id, delivered));
        }
        output
    }

    /// Whether the broker has ended the connection.
    pub fn is_ended(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .is_none_or(|connection| connection.is_ended)
    }

    /// The connection is cut: the broker hears and says nothing more on it.
    pub fn cut(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.handle(Command::Disconnected(id));
    }

    /// Time passes.
    pub fn sleep(&mut self, time: Duration) {
        self.now += time;
        while self.core.next_timeout().is_some_and(|at| at <= self.now) {
            self.handle(Command::Tick);
        }
    }

    /// Closes a channel as if a method on it had failed (406), also in the middle of a message.
    pub fn close_channel(&mut self, id: ConnectionId, number: u16) {
        let exception = precondition_failed("closed by a fault");
        self.handle(Command::Fail(id, number, exception));
    }

    /// Closes the connection (320).
    pub fn close_connection(&mut self, id: ConnectionId) {
        let exception = crate::exception::Exception::new(Code::ConnectionForced, "by a fault");
        self.handle(Command::Operator(Operator::Close(id, exception)));
    }

    /// Deletes a queue.
    pub fn delete_queue(&mut self, name: &str) {
        self.handle(Command::Operator(Operator::DeleteQueue {
            vhost: VHOST.into(),
            name: name.into(),
        }));
    }

    /// Cancels the consumers of a queue (`basic.cancel`).
    pub fn cancel_consumers(&mut self, queue: &str) {
        self.handle(Command::Operator(Operator::CancelConsumers {
            vhost: VHOST.into(),
            queue: queue.into(),
        }));
    }

    /// Nacks so many of the next publishes.
    pub fn nack_next(&mut self, id: ConnectionId, count: u32) {
        self.handle(Command::Operator(Operator::NackNext(id, count)));
    }

    /// Keeps confirms back, or lets them go.
    pub fn withhold_confirms(&mut self, id: ConnectionId, withholds: bool) {
        self.handle(Command::Operator(if withholds {
            Operator::WithholdConfirms(id)
        } else {
            Operator::ReleaseConfirms(id)
        }));
    }

    /// All queues.
    pub fn queues(&self) -> Vec<QueueInfo> {
        self.core.queue_infos()
    }

    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.core.connection_infos()
    }

    fn handle(&mut self, command: Command) {
        let now = Now {
            instant: self.now,
            unix: UNIX,
        };
        let mut effects: Vec<Effect> = Vec::new();
        self.core.handle(now, command, &mut effects);
        for effect in effects {
            self.send(effect.connection, effect.action);
        }
    }

    fn send(&mut self, id: ConnectionId, action: Action) {
        let now = self.now;
        self.append(id, |connection| {
            let SimConnection {
                session,
                output,
                acks,
                ..
            } = connection;
            match action {
                Action::Pause => connection.is_paused = true,
                Action::Resume => connection.is_paused = false,
                Action::Confirm {
                    channel,
                    tag,
                    outcome: Outcome::Ack,
                } => acks.add(channel, tag, session, output),
                action => {
                    if action.is_delivery() {
                        connection.delivered += action.cost();
                    } else {
                        acks.write(session, output);
                    }
                    session.encode(now, action, output);
                }
            }
        });
    }

    fn append(&mut self, id: ConnectionId, act: impl FnOnce(&mut SimConnection)) {
        if let Some(connection) = self.connections.get_mut(&id) {
            act(connection);
        }
    }
}
