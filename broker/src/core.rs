//! Core: the state machine of the whole broker, sans I/O. It takes commands and returns effects. It has
//! no clock, socket, lock or task; the time is an argument.

mod channels;
mod command;
mod connection;
mod consume;
mod dead_letter;
mod deliver;
mod exchanges;
mod inspect;
mod methods;
mod operator;
mod publish;
mod queues;
mod settle;
#[cfg(test)]
mod tests;
mod time;
mod transaction;
mod vhost;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use amq_protocol::protocol::AMQPClass;

pub(crate) use self::command::{
    Action, Client, Command, Content, Effect, Head, Operator, Outcome, Publish,
};
pub use self::inspect::{ConnectionInfo, ConsumerInfo, ExchangeInfo, QueueInfo};
use self::{
    connection::{Channel, Connection, Consumer},
    dead_letter::{DeadLetter, Target},
    vhost::Vhost,
};
use crate::{
    config::Config,
    exception::Exception,
    id::{ConnectionId, ConsumerId, Name, NameSource, QueueId},
    message::Gauge,
    queue::Queue,
};

/// The current time, passed in by the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Seconds since 1970, for `x-death`.
    pub(crate) unix: u64,
}

/// All state of the broker.
#[derive(Debug)]
pub(crate) struct Core {
    config: Arc<Config>,
    vhosts: BTreeMap<Name, Vhost>,
    connections: HashMap<ConnectionId, Connection>,
    queues: HashMap<QueueId, Queue>,
    consumers: HashMap<ConsumerId, Consumer>,
    /// The channels with a consumer of direct reply-to, by the token in its address.
    replies: HashMap<String, (ConnectionId, u16)>,
    timers: BinaryHeap<Reverse<(Instant, QueueId)>>,
    /// Dead letters that are not routed yet.
    dead: VecDeque<DeadLetter>,
    /// Dead letters to deliver at least once that no queue has accepted yet, by their target.
    unaccepted: BTreeMap<Target, VecDeque<DeadLetter>>,
    effects: Vec<Effect>,
    names: NameSource,
    last_id: u64,
    gauge: Gauge,
    /// The number of entries in all queues. Their memory is not part of `gauge`.
    entries: usize,
    /// Whether the memory limit was exceeded and publishers are blocked.
    alarm: bool,
    /// The number of messages that clients have published.
    published: u64,
}

impl Core {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let vhosts = config
            .vhosts()
            .map(|name| (name.clone(), Vhost::new(name.clone())))
            .collect();
        Self {
            names: NameSource::new(config.seed),
            vhosts,
            config,
            connections: HashMap::new(),
            queues: HashMap::new(),
            consumers: HashMap::new(),
            replies: HashMap::new(),
            timers: BinaryHeap::new(),
            dead: VecDeque::new(),
            unaccepted: BTreeMap::new(),
            effects: Vec::new(),
            last_id: 0,
            gauge: Gauge::default(),
            entries: 0,
            alarm: false,
            published: 0,
        }
    }

    /// Handles a command, and appends its effects.
    pub(crate) fn handle(&mut self, now: Now, command: Command, effects: &mut Vec<Effect>) {
        std::mem::swap(&mut self.effects, effects);
        match command {
            Command::Open(id, client) => self.open_connection(id, client),
            Command::Method(id, channel, method) => {
                let ids = (method.get_amqp_class_id(), method.get_amqp_method_id());
                if let Err(exception) = self.method(now, id, channel, method) {
                    self.fail(now, id, channel, exception.of(ids.0, ids.1));
                }
            }
            Command::Publish(id, channel, publish) => {
                if let Err(exception) = self.publish(now, id, channel, publish) {
                    self.fail(now, id, channel, exception.of(60, 40));
                }
            }
            Command::Fail(id, channel, exception) => self.fail(now, id, channel, exception),
            Command::Flushed(id, bytes) => self.flushed(now, id, bytes),
            Command::Disconnected(id) => self.close_connection(now, id),
            Command::Tick => self.tick(now),
            Command::Operator(operator) => self.operate(now, operator),
        }
        self.route_dead_letters(now);
        self.watch_memory();
        std::mem::swap(&mut self.effects, effects);
    }

    /// The instant at which the next [`Command::Tick`] is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Closes the channel or the connection because of an exception.
    fn fail(&mut self, now: Now, id: ConnectionId, number: u16, exception: Exception) {
        if exception.ends_connection() || number == 0 {
            if self.connections.contains_key(&id) {
                self.close_connection(now, id);
                self.act(id, Action::Close(exception));
            }
            return;
        }
        let closing = |channel: &Channel| channel.closing;
        if self.channel(id, number).is_none_or(closing) {
            return;
        }
        self.empty_channel(now, id, number);
        if let Some(channel) = self.channel_mut(id, number) {
            channel.closing = true;
        }
        self.send(id, number, channels::close_method(&exception));
    }

    fn act(&mut self, connection: ConnectionId, action: Action) {
        self.effects.push(Effect { connection, action });
    }

    fn send(&mut self, connection: ConnectionId, channel: u16, method: AMQPClass) {
        self.act(connection, Action::Send(channel, Box::new(method)));
    }

    fn channel(&self, id: ConnectionId, number: u16) -> Option<&Channel> {
        self.connections.get(&id)?.channels.get(&number)
    }

    fn channel_mut(&mut self, id: ConnectionId, number: u16) -> Option<&mut Channel> {
        self.connections.get_mut(&id)?.channels.get_mut(&number)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
