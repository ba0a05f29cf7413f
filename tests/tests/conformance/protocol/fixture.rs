//! A Lepus connection in the test's own namespace, and a peer without Lepus beside it.

use super::golden::{self, Message};
use super::{connection, next, send};
use lapin::options::ExchangeDeleteOptions;
use lapin::types::AMQPValue;
use lepus::Connection;
use lepus_tests::Env;
use lepus_tests::raw::{Raw, durable};

pub struct WireFixture {
    pub connection: Connection,
    pub raw: Raw,
    pub namespace: String,
}

impl WireFixture {
    pub async fn new(env: &Env) -> Self {
        Self {
            connection: connection(env).await,
            raw: Raw::open(&env.uri).await,
            namespace: env.namespace().to_owned(),
        }
    }

    pub fn name(&self, queue: &str) -> String {
        format!("{}.{queue}", self.namespace)
    }

    /// The next message of a queue has to be the golden one.
    pub async fn expect(&self, queue: &str, golden: &str) -> Message {
        let taken = next(&self.raw, &self.name(queue), &self.namespace, golden).await;
        Message::seen(&taken, &self.namespace)
    }

    /// Sends a golden message to a queue.
    pub async fn send(&self, queue: &str, golden: &str) {
        let message = Message::golden(golden);
        let properties = message.properties();
        send(&self.raw, &self.name(queue), &message, properties).await;
    }

    /// Publishes a golden event to its exchange, which has to be there.
    pub async fn publish(&self, golden: &str) {
        self.publish_message(&Message::golden(golden)).await;
    }

    pub async fn publish_message(&self, event: &Message) {
        let exchange = self.name(&event.fields["exchange"]);
        let (key, properties) = (&event.fields["routing-key"], event.properties());
        let confirm = self
            .raw
            .publish_with(&exchange, key, &event.body, properties)
            .await;
        let returned = confirm.expect("a confirm").take_message();
        assert!(returned.is_none(), "somebody listens to {exchange}");
    }

    pub async fn end(self, queues: &[&str]) {
        self.end_with(queues, &[]).await;
    }

    /// Leaves nothing of these on the broker.
    pub async fn end_with(self, queues: &[&str], exchanges: &[&str]) {
        self.connection.close().await;
        for queue in queues {
            self.raw.delete(&self.name(queue)).await;
        }
        for exchange in exchanges {
            let options = ExchangeDeleteOptions::default();
            let name = self.name(exchange);
            let deleted = self.raw.channel.exchange_delete(name.into(), options).await;
            deleted.expect("the exchange goes");
        }
        self.raw.close().await;
    }

    /// A queue has to be there as its block says, and no argument of it less.
    pub async fn assert_declared(&self, env: &Env, queue: &str) {
        let block = golden::block(&format!("queue {queue}"));
        let lines = block.lines().filter(|line| *line != "durable");
        let arguments: Vec<(&str, AMQPValue)> = lines.map(|line| self.argument(line)).collect();
        let name = self.name(queue);
        let again = self.raw.declare_with(&name, durable(), &arguments).await;
        again.unwrap_or_else(|error| panic!("{queue}: {error}"));
        for (left_out, _) in &arguments {
            let mut fewer = arguments.clone();
            fewer.retain(|(name, _)| name != left_out);
            let peer = Raw::open(&env.uri).await;
            let refused = peer.declare_with(&name, durable(), &fewer).await;
            let error = refused.expect_err(left_out).to_string();
            assert!(error.contains("PRECONDITION_FAILED"), "{error}");
        }
    }

    fn argument<'a>(&self, line: &'a str) -> (&'a str, AMQPValue) {
        let argument = line.strip_prefix("argument ");
        let (name, value) = argument
            .and_then(|rest| rest.split_once(": "))
            .unwrap_or_else(|| panic!("{line}"));
        let value = match (name, golden::untyped(value)) {
            ("x-dead-letter-routing-key", AMQPValue::LongString(name)) => {
                AMQPValue::LongString(self.name(&name.to_string()).into())
            }
            (_, value) => value,
        };
        (name, value)
    }
}
