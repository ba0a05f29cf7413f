//! The broker itself, without a clock, a socket, a lock or a task: commands go in,
//! effects come out, and time is an argument.

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

/// The time, as the caller has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Seconds since 1970, which `x-death` tells.
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
    /// Channels that take direct replies, by the token in their address.
    replies: HashMap<String, (ConnectionId, u16)>,
    timers: BinaryHeap<Reverse<(Instant, QueueId)>>,
    /// Messages that died and are yet to be routed on.
    dead: VecDeque<DeadLetter>,
    /// Those that nobody took, by where they go.
    held: BTreeMap<Target, VecDeque<DeadLetter>>,
    effects: Vec<Effect>,
    names: NameSource,
    last_id: u64,
    gauge: Gauge,
    /// Entries in queues, which the gauge of messages does not see.
    entries: usize,
    /// Whether memory is over its cap.
    alarm: bool,
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
            held: BTreeMap::new(),
            effects: Vec::new(),
            last_id: 0,
            gauge: Gauge::default(),
            entries: 0,
            alarm: false,
        }
    }

    /// Takes one command and appends what follows from it.
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

    /// When [`Command::Tick`] is next due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Closes the channel or the connection that an exception belongs to.
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
