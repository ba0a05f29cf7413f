//! The core against naive references: whole histories, replayed with a clock of their own.

mod deaths;
mod queues;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, queue},
    types::FieldTable,
};

use crate::{
    builder::BrokerBuilder,
    core::{Action, Client, Command, Content, Core, Effect, Head, Now, Publish},
    id::ConnectionId,
    properties::{Properties, Property},
};

/// A core, a clock, and what the core has wanted since last asked.
struct CoreFixture {
    core: Core,
    now: Instant,
    effects: Vec<Effect>,
}

impl CoreFixture {
    fn new() -> Self {
        let core = Core::new(Arc::new(BrokerBuilder::default().seed(1).config()));
        Self {
            core,
            now: Instant::now(),
            effects: Vec::new(),
        }
    }

    fn handle(&mut self, command: Command) {
        let now = Now {
            instant: self.now,
            unix: 1_700_000_000,
        };
        self.core.handle(now, command, &mut self.effects);
    }

    fn connect(&mut self, number: u64) -> ConnectionId {
        let id = ConnectionId(number);
        self.handle(Command::Open(
            id,
            Client {
                user: "guest".into(),
                vhost: "/".into(),
                address: String::new(),
                name: None,
                product: None,
                supports_cancel_notify: true,
                supports_blocked: true,
                frame_max: 131_072,
                channel_max: 2047,
                heartbeat: 0,
            },
        ));
        id
    }

    fn open(&mut self, id: ConnectionId, number: u16) {
        let open = channel::AMQPMethod::Open(channel::Open {});
        self.handle(Command::Method(id, number, AMQPClass::Channel(open)));
    }

    fn close(&mut self, id: ConnectionId, number: u16) {
        let close = channel::Close {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        };
        let close = channel::AMQPMethod::Close(close);
        self.handle(Command::Method(id, number, AMQPClass::Channel(close)));
    }

    fn basic(&mut self, id: ConnectionId, number: u16, method: basic::AMQPMethod) {
        self.handle(Command::Method(id, number, AMQPClass::Basic(method)));
    }

    fn declare(&mut self, id: ConnectionId, name: &str, durable: bool, arguments: FieldTable) {
        let declare = queue::Declare {
            queue: name.into(),
            passive: false,
            durable,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments,
        };
        let declare = queue::AMQPMethod::Declare(declare);
        self.handle(Command::Method(id, 1, AMQPClass::Queue(declare)));
        assert!(
            self.core
                .queue_infos()
                .iter()
                .any(|queue| queue.name == name),
            "{name}"
        );
    }

    /// Publishes a number to a queue.
    fn publish(&mut self, id: ConnectionId, queue: &str, body: u64, properties: Properties) {
        self.publish_on(id, 1, queue, body, properties);
    }

    fn publish_on(
        &mut self,
        id: ConnectionId,
        number: u16,
        queue: &str,
        body: u64,
        properties: Properties,
    ) {
        self.handle(Command::Publish(
            id,
            number,
            Publish {
                exchange: String::new(),
                routing_key: queue.to_owned(),
                mandatory: false,
                immediate: false,
                properties,
                body: body.to_be_bytes().to_vec().into(),
            },
        ));
    }

    fn get(&mut self, id: ConnectionId, number: u16, queue: &str, no_ack: bool) {
        let get = basic::Get {
            queue: queue.into(),
            no_ack,
        };
        self.basic(id, number, basic::AMQPMethod::Get(get));
    }

    /// What `basic.get` brought, with nothing else expected.
    fn got(&mut self) -> Option<Content> {
        self.effects
            .drain(..)
            .find_map(|effect| match effect.action {
                Action::Content(_, content) => match content.head {
                    Head::GetOk { .. } => Some(content),
                    _ => None,
                },
                _ => None,
            })
    }

    fn sleep(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        while self.core.next_timeout().is_some_and(|at| at <= self.now) {
            self.handle(Command::Tick);
        }
    }
}

fn number(content: &Content) -> u64 {
    u64::from_be_bytes(content.message.body.as_ref().try_into().unwrap())
}

fn with_expiration(millis: u64) -> Properties {
    Properties::default().with_text(Property::Expiration, &millis.to_string())
}
