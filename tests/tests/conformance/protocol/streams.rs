//! Streams, both ways.

use super::golden::Message;
use super::{connection, next, send};
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Incoming, Server};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};

#[lepus::service(name = "ticker")]
trait Ticker {
    fn count(&self, to: u64) -> impl Stream<Item = u64>;
    fn quiet(&self) -> impl Stream<Item = u64>;
}

#[lepus::service(name = "importer")]
trait Importer {
    async fn import(&self, table: String, rows: Incoming<u64>) -> u64;
    async fn first(&self, rows: Incoming<u64>) -> u64;
}

/// A service that only the test's own program serves.
#[lepus::service(name = "prober", client)]
trait Prober {
    fn quiet(&self) -> impl Stream<Item = u64>;
}

struct Clock;

impl Importer for Clock {
    async fn import(&self, _table: String, rows: Incoming<u64>) -> u64 {
        rows.fold(0, async |sum, row| sum + row.unwrap()).await
    }

    async fn first(&self, mut rows: Incoming<u64>) -> u64 {
        let first = rows.next().await;
        drop(rows);
        first.unwrap().unwrap()
    }
}

impl Ticker for Clock {
    fn count(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }

    fn quiet(&self) -> impl Stream<Item = u64> {
        stream::pending()
    }
}

conformance!(
    a_client_asks_reads_and_grants_as_the_page_says,
    a_server_opens_sends_and_ends_as_the_page_says,
    both_sides_probe_as_the_page_says,
    a_client_sends_items_as_the_page_says,
    a_server_takes_items_as_the_page_says,
);

async fn a_client_asks_reads_and_grants_as_the_page_says(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let (queue, own) = (
        env.name("ticker"),
        env.name("lepus.stream.0123456789ABCDEFGHIJkl"),
    );
    raw.declare(&queue).await;
    raw.declare_exclusive(&own).await;
    let calling = connection(&env).await;
    let ticker = TickerClient::new(&calling);
    for ends in [true, false] {
        let call = ticker.count(4).window(3);
        let opening = tokio::spawn(async move { call.await.unwrap() });
        let taken = next(&raw, &queue, env.namespace(), "rpc.stream.request").await;
        let back = taken.properties.reply_to().clone().unwrap().to_string();
        let id = taken.properties.correlation_id().clone().unwrap();
        let answer = async |block: &str| {
            let message = Message::golden(block);
            let number = message.fields["message-id"]
                .rsplit('-')
                .next()
                .unwrap()
                .to_owned();
            let properties = message.properties().with_correlation_id(id.clone());
            let properties = properties.with_message_id(format!("run-{number}").into());
            let properties = match message.fields.contains_key("reply-to") {
                true => properties.with_reply_to(own.clone().into()),
                false => properties,
            };
            send(&raw, &back, &message, properties).await;
        };
        answer("rpc.stream.open").await;
        let mut numbers = opening.await.unwrap();
        answer("rpc.stream.items").await;
        for number in 0..3 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), number);
        }
        let credit = raw.next(&own).await.delivery;
        let mut seen = Message::seen(&credit, env.namespace());
        let placeholder = "0123456789ABCDEFGHIJkl-0".to_owned();
        let position = seen.fields.insert("message-id".to_owned(), placeholder);
        assert_eq!(position.as_deref(), Some("run-0"));
        Message::golden("rpc.stream.credit").assert_is(&seen);
        if ends {
            answer("rpc.stream.item").await;
            assert_eq!(numbers.next().await.unwrap().unwrap(), 3);
            answer("rpc.stream.end").await;
            assert!(numbers.next().await.is_none());
            let last = raw.next(&own).await.delivery;
            assert_eq!(
                last.properties.kind().as_ref().unwrap().as_str(),
                "lepus.credit/1"
            );
            assert_eq!(last.data, [7]);
        } else {
            drop(numbers);
            let cancel = raw.next(&own).await.delivery;
            let mut seen = Message::seen(&cancel, env.namespace());
            let mut body = vec![0x91, 0xa0 | id.as_str().len() as u8];
            body.extend(id.as_str().as_bytes());
            assert_eq!(std::mem::take(&mut seen.body), body);
            Message::golden("rpc.stream.cancel").assert_is(&seen);
        }
    }
    calling.close().await;
    raw.delete(&queue).await;
}

async fn a_server_opens_sends_and_ends_as_the_page_says(env: Env) {
    env.name("ticker");
    let serving = connection(&env).await;
    let server = Server::new(&serving)
        .serve(TickerServer::new(Clock))
        .start()
        .await
        .unwrap();
    let raw = Raw::open(&env.uri).await;
    let replies = env.name("lepus.reply.0123456789ABCDEFGHIJkl");
    raw.declare_exclusive(&replies).await;
    let request = Message::golden("rpc.stream.request");
    let ask = async |kind: &str, body: &[u8]| {
        let properties = request.properties().with_type(kind.into());
        let properties = properties.with_reply_to(replies.clone().into());
        let properties = properties.with_correlation_id("0123456ABab7".into());
        let properties = properties.with_expiration("9000".into());
        let sent = raw
            .publish_with("", &env.name("ticker"), body, properties)
            .await;
        assert!(sent.unwrap().take_message().is_none());
    };
    let expect = async |block: &str| next(&raw, &replies, env.namespace(), block).await;
    ask("count", &request.body).await;
    let items = expect("rpc.stream.items").await.properties;
    let own = items.reply_to().clone().unwrap().to_string();
    let run = items.message_id().clone().unwrap();
    let credit = Message::golden("rpc.stream.credit");
    let properties = credit
        .properties()
        .with_correlation_id("0123456ABab7".into());
    let properties = properties
        .with_message_id(run)
        .with_reply_to(replies.clone().into());
    send(&raw, &own, &credit, properties).await;
    expect("rpc.stream.item").await;
    expect("rpc.stream.end").await;

    ask("quiet", b"\x80").await;
    expect("rpc.stream.open").await;
    let cancel = lapin::BasicProperties::default()
        .with_type("lepus.cancel/1".into())
        .with_reply_to(replies.clone().into())
        .with_expiration("9000".into());
    let sent = raw
        .publish_with("", &own, b"\x91\xac0123456ABab7", cancel)
        .await;
    assert!(sent.unwrap().take_message().is_none());
    eventually("the stream is cancelled", || async {
        serving.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
    serving.close().await;
}

async fn both_sides_probe_as_the_page_says(env: Env) {
    tokio::join!(a_client_probes(&env), a_server_probes(&env));
}

async fn a_client_probes(env: &Env) {
    let raw = Raw::open(&env.uri).await;
    let (queue, own) = (
        env.name("prober"),
        env.name("lepus.stream.0123456789ABCDEFGHIJkl"),
    );
    raw.declare(&queue).await;
    raw.declare_exclusive(&own).await;
    let calling = connection(env).await;
    let prober = ProberClient::new(&calling);
    let opening = tokio::spawn(prober.quiet().into_future());
    let taken = raw.next(&queue).await.delivery.properties;
    let open = Message::golden("rpc.stream.open");
    let properties = open
        .properties()
        .with_correlation_id(taken.correlation_id().clone().unwrap())
        .with_message_id(format!("{RUN}-0").into())
        .with_reply_to(own.clone().into());
    let back = taken.reply_to().clone().unwrap().to_string();
    send(&raw, &back, &open, properties).await;
    let stream = opening.await.unwrap().unwrap();
    next(&raw, &own, env.namespace(), "rpc.stream.probe.client").await;
    drop(stream);
    calling.close().await;
    raw.delete(&queue).await;
}

async fn a_server_probes(env: &Env) {
    let queue = env.name("ticker");
    let serving = connection(env).await;
    let server = Server::new(&serving).serve(TickerServer::new(Clock));
    let server = server.start().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    let replies = env.name("lepus.reply.0123456789ABCDEFGHIJkl");
    raw.declare_exclusive(&replies).await;
    let request = Message::golden("rpc.stream.request");
    let properties = request
        .properties()
        .with_type("quiet".into())
        .with_reply_to(replies.clone().into())
        .with_correlation_id("0123456ABab7".into());
    let sent = raw.publish_with("", &queue, b"\x80", properties).await;
    assert!(sent.unwrap().take_message().is_none());
    let expect = async |block: &str| next(&raw, &replies, env.namespace(), block).await;
    let opened = expect("rpc.stream.open").await.properties;
    expect("rpc.stream.probe.server").await;
    // One for a stream that the server does not have.
    let probe = Message::golden("rpc.stream.probe.client");
    let properties = probe
        .properties()
        .with_correlation_id("0123456ABab8".into())
        .with_reply_to(replies.clone().into());
    let own = opened.reply_to().clone().unwrap().to_string();
    send(&raw, &own, &probe, properties).await;
    expect("rpc.stream.unknown").await;
    server.stop().await.unwrap();
    serving.close().await;
}

/// A run as it is in the golden messages.
const RUN: &str = "0123456789ABCDEFGHIJkl";

async fn a_client_sends_items_as_the_page_says(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let (queue, own) = (
        env.name("importer"),
        env.name("lepus.stream.0123456789ABCDEFGHIJkl"),
    );
    raw.declare(&queue).await;
    raw.declare_exclusive(&own).await;
    let calling = connection(&env).await;
    let importer = ImporterClient::new(&calling);
    let (sender, mut later) = tokio::sync::mpsc::channel(1);
    let later = stream::poll_fn(move |cx| later.poll_recv(cx));
    let rows = stream::iter(0..3).chain(later);
    let call = tokio::spawn(importer.import("rows".into(), rows).into_future());
    let taken = next(&raw, &queue, env.namespace(), "rpc.upload.request").await;
    let back = taken.properties.reply_to().clone().unwrap().to_string();
    let id = taken.properties.correlation_id().clone().unwrap();
    let answer = async |block: &str| {
        let message = Message::golden(block);
        let properties = message.properties().with_correlation_id(id.clone());
        let properties = match message.fields.contains_key("reply-to") {
            true => properties.with_reply_to(own.clone().into()),
            false => properties,
        };
        send(&raw, &back, &message, properties).await;
    };
    let expect = async |block: &str| {
        let properties = next(&raw, &own, env.namespace(), block).await.properties;
        let position = properties.message_id().clone().unwrap().to_string();
        let run = position.rsplit_once('-').unwrap().0;
        assert_eq!(run, RUN, "that of the opening");
    };
    answer("rpc.upload.open").await;
    expect("rpc.upload.items").await;
    sender.send(3).await.unwrap();
    expect("rpc.upload.item").await;
    answer("rpc.upload.credit").await;
    drop(sender);
    expect("rpc.upload.end").await;
    answer("rpc.upload.reply").await;
    assert_eq!(call.await.unwrap().unwrap(), 6);
    calling.close().await;
    raw.delete(&queue).await;
}

async fn a_server_takes_items_as_the_page_says(env: Env) {
    env.name("importer");
    let serving = connection(&env).await;
    let server = Server::new(&serving)
        .serve(ImporterServer::new(Clock))
        .start()
        .await
        .unwrap();
    let raw = Raw::open(&env.uri).await;
    let replies = env.name("lepus.reply.0123456789ABCDEFGHIJkl");
    raw.declare_exclusive(&replies).await;
    let expect = async |block: &str| {
        next(&raw, &replies, env.namespace(), block)
            .await
            .properties
    };
    // The server's queue, and its run.
    let open = async |method: &str| {
        let request = Message::golden("rpc.upload.request");
        let properties = request.properties().with_type(method.into());
        let properties = properties.with_reply_to(replies.clone().into());
        let properties = properties.with_correlation_id("0123456ABab7".into());
        send(&raw, &env.name("importer"), &request, properties).await;
        let opened = expect("rpc.upload.open").await;
        let run = opened.message_id().clone().unwrap().to_string();
        (
            opened.reply_to().clone().unwrap().to_string(),
            run.rsplit_once('-').unwrap().0.to_owned(),
        )
    };
    let (own, run) = open("import").await;
    let put = async |own: &str, run: &str, block: &str, number: u64| {
        let message = Message::golden(block);
        let properties = message.properties();
        let properties = properties.with_reply_to(replies.clone().into());
        let properties = properties.with_correlation_id("0123456ABab7".into());
        let properties = properties.with_message_id(format!("{run}-{number}").into());
        send(&raw, own, &message, properties).await;
    };
    put(&own, &run, "rpc.upload.items", 0).await;
    put(&own, &run, "rpc.upload.item", 3).await;
    put(&own, &run, "rpc.upload.end", 4).await;
    expect("rpc.upload.reply").await;

    let (own, run) = open("import").await;
    for number in 0..16 {
        put(&own, &run, "rpc.upload.item", number).await;
    }
    expect("rpc.upload.credit").await;
    put(&own, &run, "rpc.upload.end", 16).await;
    assert_eq!(raw.next(&replies).await.delivery.data, [48], "16 times 3");

    let (own, run) = open("first").await;
    put(&own, &run, "rpc.upload.item", 0).await;
    expect("rpc.upload.stop").await;
    assert_eq!(raw.next(&replies).await.delivery.data, [3]);
    server.stop().await.unwrap();
    serving.close().await;
}
