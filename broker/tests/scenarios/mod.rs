//! Conversations that the embedded broker and RabbitMQ must answer alike, frame by frame. The
//! broker's own tests and the conformance suite run the same functions.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part, and a test fails by panicking"
)]

pub(crate) mod deaths;
pub(crate) mod prefetch;
pub(crate) mod routing;
pub(crate) mod transactions;

#[path = "../support/raw.rs"]
mod raw;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{
        AMQPClass, BasicProperties, basic, channel, confirm, connection, exchange, queue, tx,
    },
    types::{AMQPValue, FieldTable},
};

use raw::{Raw, encode};

/// Gives a macro the names of all conversations, by module.
macro_rules! with_every_conversation {
    ($run:ident) => {
        $run! {
            transactions:
                a_channel_is_transactional_or_confirms,
                publishes_wait_for_the_commit,
                routes_are_those_of_the_publish,
                returns_come_at_the_commit,
                an_error_of_a_publish_comes_at_once,
                settlements_wait_for_the_commit,
                a_delivery_is_settled_once,
                an_uncommitted_settlement_makes_no_room,
                recovering_leaves_out_what_is_settled,
                closing_rolls_back,
                a_refused_message_fails_the_commit,
                direct_replies_do_not_wait,
                a_message_is_as_old_as_its_commit,
                other_commands_do_not_wait;
            prefetch:
                a_shared_prefetch_is_shared_fairly,
                a_consumer_without_acknowledgements_waits_for_room,
                a_shared_prefetch_ends,
                gotten_messages_count_when_it_is_set,
                what_is_given_back_makes_room,
                what_is_given_back_is_held_to_the_length,
                quorum_queues_know_no_shared_prefetch;
            routing:
                an_alternate_exchange_gets_what_no_key_routes,
                a_bound_exchange_is_given_all_keys,
                the_default_exchange_is_no_alternate,
                a_copy_reaches_a_direct_reply_address,
                keys_that_are_no_texts_are_passed_over;
            deaths:
                the_dead_go_on_by_all_their_keys,
                repeated_entries_become_one,
                a_message_that_goes_round_keeps_its_history;
        }
    };
}
pub(crate) use with_every_conversation;

/// The broker to talk to, and names that no other test has.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) name: Box<dyn Fn(&str) -> String + Send + Sync>,
}

impl Site {
    pub(crate) fn name(&self, what: &str) -> String {
        (self.name)(what)
    }

    /// A connection with channel 1 open.
    pub(crate) async fn peer(&self) -> Peer {
        Peer {
            raw: Raw::ready(self.address).await,
            waiting: BTreeMap::new(),
        }
    }
}

/// A message as the broker sent it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: String,
}

/// One answer of the broker: its text names the method and what matters of it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) message: Option<Message>,
}

/// A client that sends and reads single frames.
pub(crate) struct Peer {
    raw: Raw,
    /// Answers on channels that nobody has asked for yet.
    waiting: BTreeMap<u16, Vec<Answer>>,
}

impl Peer {
    pub(crate) async fn send(&mut self, channel: u16, method: AMQPClass) {
        self.raw.send(channel, method).await;
    }

    /// Sends a method and takes the next answer on its channel.
    pub(crate) async fn ask(&mut self, channel: u16, method: AMQPClass) -> String {
        self.send(channel, method).await;
        self.next(channel).await.text
    }

    /// The next answer on a channel.
    pub(crate) async fn next(&mut self, channel: u16) -> Answer {
        loop {
            let waiting = self.waiting.entry(channel).or_default();
            if !waiting.is_empty() {
                return waiting.remove(0);
            }
            let (number, answer) = self.read().await;
            self.waiting.entry(number).or_default().push(answer);
        }
    }

    pub(crate) async fn text(&mut self, channel: u16) -> String {
        self.next(channel).await.text
    }

    /// Asks a queue for its length, and returns what came on the channel before the answer. The
    /// embedded broker has then done all that it was told before; a queue of RabbitMQ prefers the
    /// question to messages that wait for it, so there this may miss what is still to come.
    pub(crate) async fn settle(&mut self, channel: u16, queue: &str) -> Vec<Answer> {
        self.send(channel, declare(queue, true, FieldTable::default()))
            .await;
        let mut before = Vec::new();
        loop {
            let answer = self.next(channel).await;
            if answer.text.starts_with("queue.declare-ok") {
                return before;
            }
            before.push(answer);
        }
    }

    /// Opens another channel.
    pub(crate) async fn open(&mut self, channel: u16) {
        let open = channel::AMQPMethod::Open(channel::Open {});
        assert_eq!(
            self.ask(channel, AMQPClass::Channel(open)).await,
            "channel.open-ok"
        );
    }

    pub(crate) async fn close(&mut self, channel: u16) {
        let close = channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        });
        self.send(channel, AMQPClass::Channel(close)).await;
        while self.text(channel).await != "channel.close-ok" {}
    }

    /// Opens a channel anew that the broker has closed.
    pub(crate) async fn reopen(&mut self, channel: u16) {
        let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
        self.send(channel, AMQPClass::Channel(ok)).await;
        self.open(channel).await;
    }

    pub(crate) async fn declare(&mut self, channel: u16, queue: &str, arguments: FieldTable) {
        let answer = self.ask(channel, declare(queue, false, arguments)).await;
        assert_eq!(answer, "queue.declare-ok 0");
    }

    /// The number of messages that are ready. RabbitMQ may answer before it has done what it was told
    /// without an answer, such as to publish.
    pub(crate) async fn count(&mut self, channel: u16, queue: &str) -> u32 {
        let answer = self
            .ask(channel, declare(queue, true, FieldTable::default()))
            .await;
        let count = answer.strip_prefix("queue.declare-ok ");
        count.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }

    /// Waits until a queue has so many ready messages.
    pub(crate) async fn until_count(&mut self, channel: u16, queue: &str, wanted: u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let count = self.count(channel, queue).await;
            if count == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{queue} has {count} messages, not {wanted}"
            );
        }
    }

    /// Everything that is ready in a queue.
    pub(crate) async fn drain(&mut self, channel: u16, queue: &str) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.get(channel, queue, true).await {
            all.push(message);
        }
        all
    }

    pub(crate) async fn bodies(&mut self, channel: u16, queue: &str) -> Vec<String> {
        let drained = self.drain(channel, queue).await;
        drained.into_iter().map(|message| message.body).collect()
    }

    pub(crate) async fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Option<Message> {
        let get = basic::Get {
            queue: queue.into(),
            no_ack,
        };
        self.send(channel, AMQPClass::Basic(basic::AMQPMethod::Get(get)))
            .await;
        let answer = self.next(channel).await;
        assert!(answer.text.starts_with("basic.get-"), "{}", answer.text);
        answer.message
    }

    pub(crate) async fn exchange(&mut self, exchange: &str, kind: &str, arguments: FieldTable) {
        let declare = exchange::Declare {
            exchange: exchange.into(),
            kind: kind.into(),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments,
        };
        let declare = exchange::AMQPMethod::Declare(declare);
        assert_eq!(
            self.ask(1, AMQPClass::Exchange(declare)).await,
            "exchange.declare-ok"
        );
    }

    pub(crate) async fn delete_exchange(&mut self, exchange: &str) {
        let delete = exchange::AMQPMethod::Delete(exchange::Delete {
            exchange: exchange.into(),
            if_unused: false,
            nowait: false,
        });
        assert_eq!(
            self.ask(1, AMQPClass::Exchange(delete)).await,
            "exchange.delete-ok"
        );
    }

    pub(crate) async fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        let bind = queue::AMQPMethod::Bind(queue::Bind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: key.into(),
            nowait: false,
            arguments: FieldTable::default(),
        });
        assert_eq!(self.ask(1, AMQPClass::Queue(bind)).await, "queue.bind-ok");
    }

    pub(crate) async fn bind_exchange(&mut self, destination: &str, source: &str, key: &str) {
        let bind = exchange::AMQPMethod::Bind(exchange::Bind {
            destination: destination.into(),
            source: source.into(),
            routing_key: key.into(),
            nowait: false,
            arguments: FieldTable::default(),
        });
        assert_eq!(
            self.ask(1, AMQPClass::Exchange(bind)).await,
            "exchange.bind-ok"
        );
    }

    pub(crate) async fn delete_queue(&mut self, channel: u16, queue: &str) {
        let delete = queue::AMQPMethod::Delete(queue::Delete {
            queue: queue.into(),
            if_unused: false,
            if_empty: false,
            nowait: false,
        });
        let answer = self.ask(channel, AMQPClass::Queue(delete)).await;
        assert!(answer.starts_with("queue.delete-ok"), "{answer}");
    }

    pub(crate) async fn consume(&mut self, channel: u16, queue: &str, tag: &str, no_ack: bool) {
        let answer = self.ask(channel, consume(queue, tag, no_ack)).await;
        assert_eq!(answer, format!("basic.consume-ok {tag}"));
    }

    pub(crate) async fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        let qos = basic::AMQPMethod::Qos(basic::Qos {
            prefetch_count,
            global,
        });
        self.send(channel, AMQPClass::Basic(qos)).await;
    }

    pub(crate) async fn publish(&mut self, channel: u16, exchange: &str, key: &str, body: &str) {
        self.publish_with(channel, exchange, key, body, false, FieldTable::default())
            .await;
    }

    pub(crate) async fn publish_mandatory(&mut self, channel: u16, key: &str, body: &str) {
        self.publish_with(channel, "", key, body, true, FieldTable::default())
            .await;
    }

    pub(crate) async fn publish_with(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        body: &str,
        mandatory: bool,
        headers: FieldTable,
    ) {
        let properties = BasicProperties::default().with_headers(headers);
        self.publish_properties(channel, exchange, key, body, mandatory, properties)
            .await;
    }

    pub(crate) async fn publish_properties(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        body: &str,
        mandatory: bool,
        properties: BasicProperties,
    ) {
        let publish = basic::AMQPMethod::Publish(basic::Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            mandatory,
            immediate: false,
        });
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            properties,
        };
        let mut bytes = encode(&AMQPFrame::Method(channel, AMQPClass::Basic(publish)));
        bytes.extend(encode(&AMQPFrame::Header(channel, header)));
        if !body.is_empty() {
            bytes.extend(encode(&AMQPFrame::Body(channel, body.into())));
        }
        self.raw.write(&bytes).await;
    }

    /// Reads one answer, with its content where it has one.
    async fn read(&mut self) -> (u16, Answer) {
        let frame = self.raw.frame().await;
        let Some(AMQPFrame::Method(channel, method)) = frame else {
            panic!("a method was expected, not {frame:?}");
        };
        let mut text = describe(&method);
        let head = match method {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => Some((
                deliver.delivery_tag,
                deliver.redelivered,
                deliver.routing_key,
            )),
            AMQPClass::Basic(basic::AMQPMethod::GetOk(ok)) => {
                Some((ok.delivery_tag, ok.redelivered, ok.routing_key))
            }
            AMQPClass::Basic(basic::AMQPMethod::Return(back)) => Some((0, false, back.routing_key)),
            _ => None,
        };
        let Some((tag, redelivered, routing_key)) = head else {
            let message = None;
            return (channel, Answer { text, message });
        };
        let (properties, body) = self.content().await;
        write!(text, " {body}").unwrap();
        let message = Message {
            tag,
            redelivered,
            routing_key: routing_key.to_string(),
            properties,
            body,
        };
        let message = Some(message);
        (channel, Answer { text, message })
    }

    async fn content(&mut self) -> (BasicProperties, String) {
        let frame = self.raw.frame().await;
        let Some(AMQPFrame::Header(_, header)) = frame else {
            panic!("a content header was expected, not {frame:?}");
        };
        let mut body = Vec::new();
        while (body.len() as u64) < header.body_size {
            match self.raw.frame().await {
                Some(AMQPFrame::Body(_, chunk)) => body.extend(chunk),
                other => panic!("a body was expected, not {other:?}"),
            }
        }
        (header.properties, String::from_utf8(body).unwrap())
    }
}

fn describe(method: &AMQPClass) -> String {
    match method {
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => format!(
            "connection.close {} {} {} {}",
            close.reply_code, close.class_id, close.method_id, close.reply_text
        ),
        AMQPClass::Channel(method) => match method {
            channel::AMQPMethod::OpenOk(_) => "channel.open-ok".into(),
            channel::AMQPMethod::CloseOk(_) => "channel.close-ok".into(),
            channel::AMQPMethod::Close(close) => format!(
                "channel.close {} {} {} {}",
                close.reply_code, close.class_id, close.method_id, close.reply_text
            ),
            other => panic!("{other:?}"),
        },
        AMQPClass::Queue(method) => match method {
            queue::AMQPMethod::DeclareOk(ok) => format!("queue.declare-ok {}", ok.message_count),
            queue::AMQPMethod::BindOk(_) => "queue.bind-ok".into(),
            queue::AMQPMethod::UnbindOk(_) => "queue.unbind-ok".into(),
            queue::AMQPMethod::DeleteOk(_) => "queue.delete-ok".into(),
            other => panic!("{other:?}"),
        },
        AMQPClass::Exchange(method) => match method {
            exchange::AMQPMethod::DeclareOk(_) => "exchange.declare-ok".into(),
            exchange::AMQPMethod::DeleteOk(_) => "exchange.delete-ok".into(),
            exchange::AMQPMethod::BindOk(_) => "exchange.bind-ok".into(),
            other => panic!("{other:?}"),
        },
        AMQPClass::Basic(method) => match method {
            basic::AMQPMethod::Ack(ack) => format!("basic.ack {}", ack.delivery_tag),
            basic::AMQPMethod::QosOk(_) => "basic.qos-ok".into(),
            basic::AMQPMethod::ConsumeOk(ok) => format!("basic.consume-ok {}", ok.consumer_tag),
            basic::AMQPMethod::CancelOk(ok) => format!("basic.cancel-ok {}", ok.consumer_tag),
            basic::AMQPMethod::RecoverOk(_) => "basic.recover-ok".into(),
            basic::AMQPMethod::GetEmpty(_) => "basic.get-empty".into(),
            basic::AMQPMethod::GetOk(_) => "basic.get-ok".into(),
            basic::AMQPMethod::Deliver(deliver) => format!("deliver {}", deliver.consumer_tag),
            basic::AMQPMethod::Return(back) => {
                format!("return {} {}", back.reply_code, back.reply_text)
            }
            other => panic!("{other:?}"),
        },
        AMQPClass::Confirm(_) => "confirm.select-ok".into(),
        AMQPClass::Tx(method) => match method {
            tx::AMQPMethod::SelectOk(_) => "tx.select-ok".into(),
            tx::AMQPMethod::CommitOk(_) => "tx.commit-ok".into(),
            tx::AMQPMethod::RollbackOk(_) => "tx.rollback-ok".into(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

pub(crate) fn select() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))
}

pub(crate) fn commit() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

pub(crate) fn rollback() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))
}

pub(crate) fn confirm_select() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
        nowait: false,
    }))
}

pub(crate) fn ack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple,
    }))
}

pub(crate) fn nack(delivery_tag: u64, multiple: bool, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
        delivery_tag,
        multiple,
        requeue,
    }))
}

pub(crate) fn reject(delivery_tag: u64, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Reject(basic::Reject {
        delivery_tag,
        requeue,
    }))
}

pub(crate) fn declare(queue: &str, passive: bool, arguments: FieldTable) -> AMQPClass {
    let quorum = arguments.inner().get("x-queue-type").is_some();
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.into(),
        passive,
        durable: quorum,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments,
    }))
}

pub(crate) fn consume(queue: &str, tag: &str, no_ack: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

pub(crate) fn cancel(tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: tag.into(),
        nowait: false,
    }))
}

pub(crate) fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

pub(crate) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(crate) fn list(texts: &[&str]) -> AMQPValue {
    let values: Vec<_> = texts.iter().map(|text| long(text)).collect();
    AMQPValue::FieldArray(values.into())
}
