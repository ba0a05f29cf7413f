//! `events tail` and `events publish`.

use lepus::events::Match;
use lepus::{Direct, Fanout, Headers, Topic};
use lepus_tests::process::{PATIENCE, Program, Signal};
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::{Env, conformance, eventually};
use serde_json::json;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::on::Lepus;

conformance!(
    events_are_shown_with_what_they_came_with,
    an_exchange_of_any_type_is_listened_to,
    an_event_that_does_not_decode_is_shown,
    a_lost_connection_is_told_while_it_is_lost,
    the_reader_of_the_output_ends_it,
    events_are_published,
    events_are_published_from_stdin,
    a_mistake_is_told,
);

/// Waits until it is subscribed.
async fn subscribed(program: &Program) {
    eventually("it is subscribed", || async {
        program.printed().contains("waiting for events")
    })
    .await;
}

fn parsed(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn events_are_shown_with_what_they_came_with(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let orders = Topic::<serde_json::Value>::new("orders").event_type("order.paid");
    orders.declare(&connection).await.unwrap();
    let mut all = lepus.start(&["events", "tail", "orders", "-o", "jsonl"]);
    let mut table = lepus.start(&["events", "tail", "orders", "--bind", "paid.*", "-n", "1"]);
    let mut typed = lepus.start(&[
        "events",
        "tail",
        "orders",
        "--type",
        "order.sent",
        "-n",
        "1",
    ]);
    for program in [&all, &table, &typed] {
        subscribed(program).await;
    }
    let publisher = orders.publisher(&connection);
    let publish = publisher.publish("paid.cash", &json!({"id": 7}));
    publish
        .header("tenant", "hare")
        .message_id("m-1")
        .await
        .unwrap();
    let sent = Topic::<u32>::new("orders").event_type("order.sent");
    sent.publisher(&connection)
        .publish("sent", &8)
        .await
        .unwrap();
    let event = parsed(&all.line().await);
    assert_eq!(
        (&event["key"], &event["type"]),
        (&json!("paid.cash"), &json!("order.paid"))
    );
    assert_eq!(
        (&event["id"], &event["headers"]),
        (&json!("m-1"), &json!({"tenant": "hare"}))
    );
    assert_eq!(event["body"], json!({"id": 7}));
    let event = parsed(&all.line().await);
    assert_eq!((&event["key"], &event["body"]), (&json!("sent"), &json!(8)));
    assert_eq!(
        table.line().await,
        "paid.cash [order.paid] tenant=hare {\"id\":7}"
    );
    assert_eq!(typed.line().await, "sent [order.sent] 8");
    table.succeeded().await;
    typed.succeeded().await;
    all.signal(Signal::INT);
    assert_eq!(all.ended().await.status.code(), Some(130));
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn an_exchange_of_any_type_is_listened_to(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let fanout = Fanout::<u32>::new("fanout").transient();
    let direct = Direct::<u32>::new("direct");
    let headers = Headers::<u32>::new("headers");
    fanout.declare(&connection).await.unwrap();
    direct.declare(&connection).await.unwrap();
    headers.declare(&connection).await.unwrap();
    let one =
        |arguments: &[&str]| lepus.start(&[&["events", "tail", "-n", "1"], arguments].concat());
    let mut programs = [
        one(&["fanout"]),
        one(&["direct", "--bind", "a", "--bind", "b"]),
        one(&["headers"]),
        one(&["headers", "--match", "format=pdf", "--match", "n=7"]),
    ];
    for program in &programs {
        subscribed(program).await;
    }
    fanout.publisher(&connection).publish(&1).await.unwrap();
    direct
        .publisher(&connection)
        .publish("c", &2)
        .await
        .unwrap();
    direct
        .publisher(&connection)
        .publish("b", &3)
        .await
        .unwrap();
    let reports = headers.publisher(&connection);
    reports.publish(&4).header("format", "pdf").await.unwrap();
    reports
        .publish(&5)
        .header("format", "pdf")
        .header("n", 7)
        .await
        .unwrap();
    let mut lines = Vec::new();
    for program in &mut programs {
        lines.push(program.line().await);
    }
    assert_eq!(
        lines,
        [
            "\"\" 1",
            "b 3",
            "\"\" format=pdf 4",
            "\"\" format=pdf n=7 5"
        ]
    );
    for program in programs {
        program.succeeded().await;
    }
    // The subscription is what it would be without the command.
    let stream = headers
        .subscribe(&connection)
        .bind(Match::all())
        .stream()
        .await
        .unwrap();
    stream.close().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn an_event_that_does_not_decode_is_shown(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let bytes = Fanout::bytes("events");
    bytes.declare(&connection).await.unwrap();
    let mut tail = lepus.start(&["events", "tail", "events", "-o", "jsonl", "-n", "3"]);
    subscribed(&tail).await;
    bytes
        .publisher(&connection)
        .publish(&vec![0, 0xff])
        .await
        .unwrap();
    let raw = lepus_tests::raw::Raw::open(&env.uri).await;
    let exchange = format!("{}.events", env.namespace());
    let xml = lapin::BasicProperties::default().with_content_type("application/xml".into());
    raw.publish_with(&exchange, "k", b"<a/>", xml)
        .await
        .unwrap();
    let broken = lapin::BasicProperties::default().with_content_type("application/json".into());
    raw.publish_with(&exchange, "k", b"{", broken)
        .await
        .unwrap();
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(parsed(&tail.line().await)["body"].clone());
    }
    let expected = [
        json!({"$bytes": "AP8="}),
        json!("<a/>"),
        json!({"$body": "ew=="}),
    ];
    assert_eq!(bodies, expected);
    tail.succeeded().await;
    raw.close().await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_lost_connection_is_told_while_it_is_lost(env: Env) {
    let connection = env.connect().await;
    Topic::<u32>::new("orders")
        .declare(&connection)
        .await
        .unwrap();
    let proxy = Proxy::start(&env.uri).await;
    let lepus = Lepus::at(proxy.uri(), env.namespace());
    let tail = lepus.start(&["events", "tail", "orders"]);
    subscribed(&tail).await;
    proxy.down().await;
    proxy.cut(Cut::Rst);
    let count = |text: &str| tail.printed().matches(text).count();
    eventually("the loss is told", || async {
        (count("warning: the connection is lost") == 1)
            .then_some(())
            .ok_or(tail.printed())
    })
    .await;
    proxy.up().await;
    let publisher = Topic::<u32>::new("orders").publisher(&connection);
    eventually("events come again", || async {
        publisher.publish("paid", &7).await.unwrap();
        (count("paid 7") > 0).then_some(()).ok_or(tail.printed())
    })
    .await;
    assert_eq!(
        count("warning: the connection is lost"),
        1,
        "{}",
        tail.printed()
    );
    tail.signal(Signal::INT);
    assert_eq!(tail.ended().await.status.code(), Some(130));
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn the_reader_of_the_output_ends_it(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    Topic::<u32>::new("orders")
        .declare(&connection)
        .await
        .unwrap();
    // Nobody publishes, so that no write can fail.
    let mut command = lepus.command(&["events", "tail", "orders"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    let note = notes.next_line().await.unwrap();
    assert_eq!(note.as_deref(), Some("waiting for events of `orders`"));
    drop(child.stdout.take());
    let status = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert!(status.expect("it ends").unwrap().success());
    assert_eq!(notes.next_line().await.unwrap(), None);
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn events_are_published(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let orders = Topic::<serde_json::Value>::new("orders");
    let mut events = orders
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let publish = ["events", "publish", "orders", "paid.cash"];
    let options = [
        "{\"id\":7}",
        "--type",
        "order.paid",
        "-H",
        "tenant=hare",
        "--persistent",
    ];
    assert_eq!(lepus.ok(&[&publish[..], &options].concat()).await, "");
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(
        (event.key(), event.event_type()),
        ("paid.cash", Some("order.paid"))
    );
    assert_eq!(event.payload(), &json!({"id": 7}));
    assert_eq!(event.headers().len(), 1);
    assert_eq!(
        (event.content_type(), event.bytes()),
        (Some("application/json"), &b"{\"id\":7}"[..])
    );
    // As it is written, whatever the size of the number.
    let large = "{\"z\": 340282366920938463463374607431768211455, \"a\": 1.10}";
    lepus
        .ok(&["events", "publish", "orders", "large", large])
        .await;
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(event.bytes(), large.as_bytes());
    lepus
        .ok(&["events", "publish", "orders", "text", "--text", "7"])
        .await;
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(
        (event.content_type(), event.bytes()),
        (Some("text/plain"), &b"7"[..])
    );
    events.close().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn events_are_published_from_stdin(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let numbers = Topic::<u32>::new("numbers");
    let mut events = numbers
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let ended = lepus
        .run_with(&["events", "publish", "numbers", "n", "-"], "1\n2\n3")
        .await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    for number in 1..=3 {
        assert_eq!(events.next().await.unwrap().unwrap().payload(), &number);
    }
    events.close().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_mistake_is_told(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    Topic::<u32>::new("orders")
        .declare(&connection)
        .await
        .unwrap();
    for (arguments, code, text) in [
        (
            &["tail", "nowhere"][..],
            4,
            "there is no exchange `nowhere`",
        ),
        (
            &["publish", "nowhere", "k", "1"],
            4,
            "there is no exchange `nowhere`",
        ),
        (
            &["publish", "orders", "k", "1"],
            4,
            "no queue takes the event `k` of `orders`",
        ),
        (&["publish", "orders", "k", "{"], 1, "no JSON"),
        (&["publish", "orders", &*"k".repeat(300), "1"], 1, "255"),
        (&["publish", "orders", "k", "1", "-H", "=1"], 1, "no header"),
        (
            &["tail", "orders", "--bind", "a", "--match", "a=b"],
            1,
            "cannot be used with",
        ),
        (&["tail", ""], 1, "a name cannot be empty"),
    ] {
        let ended = lepus.run(&[&["events"], arguments].concat()).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {ended:?}");
    }
    lepus
        .ok(&["events", "publish", "orders", "k", "1", "--unrouted-ok"])
        .await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}
