//! Other people's clients against the embedded broker and RabbitMQ: the same scenario, the same
//! lines printed on both. Their scripts are in tests/clients.

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicGetArguments,
    BasicNackArguments, BasicPublishArguments, BasicQosArguments, Channel, ConfirmSelectArguments,
    ExchangeDeclareArguments, QueueBindArguments, QueueDeclareArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use lepus_tests::process::{Program, client, node_is_available, python_is_available};
use lepus_tests::{Env, conformance};
use tokio::sync::mpsc;

conformance!(
    pika_blocking,
    pika_select,
    aio_pika,
    node_amqplib,
    amqp_tools,
    amqprs_in_rust,
);

const SCENARIO: [&str; 8] = [
    "connected",
    "declared",
    "confirmed",
    "returned 312",
    "consumed one two three",
    "got again redelivered",
    "refused 404",
    "closed",
];

async fn run(env: &Env, script: &str) -> Vec<String> {
    let mut command = client(script);
    let name = env.name("scenario");
    let program = Program::spawn(command.arg(name).env("AMQP_URL", &env.uri));
    program.succeeded().await
}

async fn pika_blocking(env: Env) {
    if python_is_available(env.test) {
        assert_eq!(run(&env, "pika_blocking.py").await, SCENARIO);
    }
}

async fn pika_select(env: Env) {
    if python_is_available(env.test) {
        assert_eq!(run(&env, "pika_select.py").await, SCENARIO);
    }
}

async fn aio_pika(env: Env) {
    if python_is_available(env.test) {
        assert_eq!(run(&env, "aio_pika_client.py").await, SCENARIO);
    }
}

async fn node_amqplib(env: Env) {
    if node_is_available(env.test) {
        assert_eq!(run(&env, "amqplib.cjs").await, SCENARIO);
    }
}

async fn amqp_tools(env: Env) {
    let expected = [
        "declared",
        "published",
        "consumed onetwothree",
        "got again",
        "empty",
        "deleted",
    ];
    assert_eq!(run(&env, "amqp_tools.sh").await, expected);
}

/// amqprs tells of confirms and returns through callbacks.
struct Ears(mpsc::UnboundedSender<Heard>);

#[derive(Debug, PartialEq)]
enum Heard {
    Acked(u64),
    Returned(u16),
    Closed(u16),
}

impl Ears {
    fn hear(&self, event: Heard) {
        self.0.send(event).expect("somebody listens");
    }
}

#[async_trait::async_trait]
impl ChannelCallback for Ears {
    async fn close(
        &mut self,
        _: &Channel,
        close: CloseChannel,
    ) -> Result<(), amqprs::error::Error> {
        self.hear(Heard::Closed(close.reply_code()));
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.hear(Heard::Acked(ack.delivery_tag()));
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}

    async fn publish_return(
        &mut self,
        _: &Channel,
        returned: Return,
        _: BasicProperties,
        _: Vec<u8>,
    ) {
        self.hear(Heard::Returned(returned.reply_code()));
    }
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &str) {
    let mut to = BasicPublishArguments::new(exchange, key);
    to.mandatory(true);
    let published = channel
        .basic_publish(BasicProperties::default(), body.into(), to)
        .await;
    published.expect("a publish");
}

async fn amqprs_in_rust(env: Env) {
    let uri: lapin::uri::AMQPUri = env.uri.parse().expect("a URI");
    let (authority, user) = (uri.authority.clone(), uri.authority.userinfo);
    let mut arguments = OpenConnectionArguments::new(
        &authority.host,
        authority.port,
        &user.username,
        &user.password,
    );
    arguments.virtual_host(&uri.vhost);
    let connection = Connection::open(&arguments).await.expect("a connection");
    let channel = connection.open_channel(None).await.expect("a channel");
    let (sender, mut heard) = mpsc::unbounded_channel();
    channel
        .register_callback(Ears(sender))
        .await
        .expect("a callback");
    let name = env.name("scenario");

    let mut exchange = ExchangeDeclareArguments::new(&name, "topic");
    exchange.auto_delete(true);
    channel
        .exchange_declare(exchange)
        .await
        .expect("an exchange");
    let mut queue = QueueDeclareArguments::new(&name);
    queue.exclusive(true);
    channel.queue_declare(queue).await.expect("a queue");
    channel
        .queue_bind(QueueBindArguments::new(&name, &name, "a.*"))
        .await
        .expect("a binding");

    channel
        .confirm_select(ConfirmSelectArguments::default())
        .await
        .expect("confirms");
    for word in ["one", "two", "three"] {
        publish(&channel, &name, "a.b", word).await;
    }
    // One acknowledgement may be for several.
    while heard.recv().await != Some(Heard::Acked(3)) {}
    publish(&channel, &name, "b.a", "nobody").await;
    assert_eq!(heard.recv().await, Some(Heard::Returned(312)));
    assert_eq!(heard.recv().await, Some(Heard::Acked(4)));

    channel
        .basic_qos(BasicQosArguments::new(0, 1, false))
        .await
        .expect("a prefetch");
    let consume = BasicConsumeArguments::new(&name, "reader");
    let (tag, mut messages) = channel.basic_consume_rx(consume).await.expect("a consumer");
    let mut words = Vec::new();
    for _ in 0..3 {
        let message = messages.recv().await.expect("a message");
        let number = message.deliver.expect("a delivery").delivery_tag();
        words.push(String::from_utf8(message.content.expect("a body")).expect("text"));
        channel
            .basic_ack(BasicAckArguments::new(number, false))
            .await
            .expect("an ack");
    }
    assert_eq!(words, ["one", "two", "three"]);
    channel
        .basic_cancel(BasicCancelArguments::new(&tag))
        .await
        .expect("a cancel");

    publish(&channel, "", &name, "again").await;
    assert_eq!(heard.recv().await, Some(Heard::Acked(5)));
    let get = || channel.basic_get(BasicGetArguments::new(&name));
    let (first, ..) = get().await.expect("an answer").expect("a message");
    assert!(!first.redelivered());
    let back = BasicNackArguments::new(first.delivery_tag(), false, true);
    channel.basic_nack(back).await.expect("a nack");
    let (again, _, body) = get().await.expect("an answer").expect("a message");
    assert!(again.redelivered());
    assert_eq!(body, b"again");

    let mut missing = QueueDeclareArguments::new(&format!("missing.{name}"));
    missing.passive(true);
    assert!(channel.queue_declare(missing).await.is_err());
    assert_eq!(heard.recv().await, Some(Heard::Closed(404)));
    connection.close().await.expect("a goodbye");
}
