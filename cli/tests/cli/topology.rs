//! `topology export` and `topology diff`.

use lepus::amqp::QueueKind;
use lepus::{Event, Job, Server, Topic};
use lepus_tests::jobs::queue;
use lepus_tests::{Env, conformance, eventually};
use serde_json::{Value, json};

use crate::on::Lepus;

conformance!(
    what_is_in_use_is_exported_and_compared,
    a_file_that_is_none_is_told
);

#[lepus::service(name = "greeter")]
trait Greeter {
    async fn greet(&self, name: String) -> String;
}

struct English;

impl Greeter for English {
    async fn greet(&self, name: String) -> String {
        format!("Hello {name}")
    }
}

async fn what_is_in_use_is_exported_and_compared(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let server = Server::new(&connection).serve(GreeterServer::new(English));
    let server = server.start().await.unwrap();
    let mails = queue::<u32>("mails", QueueKind::Quorum);
    let pool = mails
        .worker(&connection)
        .start(async |_: Job<u32>| {})
        .await
        .unwrap();
    let logs = Topic::<String>::new("logs");
    let group = logs.subscribe(&connection).bind("#").shared("archive");
    let group = group.start(async |_: Event<String>| {}).await.unwrap();
    queue::<u32>("plain", QueueKind::Classic)
        .declare(&connection)
        .await
        .unwrap();
    let declared = |name: &str, arguments: Value| json!({"name": name, "durable": true, "arguments": arguments});
    let quorum = |name: &str| {
        let dead = format!("{name}.dead");
        let work = json!({
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        });
        let limit = json!({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000});
        (declared(name, work), declared(&dead, limit))
    };
    let exchange = |name: &str, kind: &str| json!({"name": name, "type": kind, "durable": true, "auto_delete": false, "internal": false, "arguments": {}});
    let (archive, mail) = (quorum("logs.archive"), quorum("mails"));
    let expected = json!({
        "lepus_topology": 1,
        "exchanges": [
            {"name": "lepus.control", "role": "control"},
            {"name": "logs", "role": "events", "declared": exchange("logs", "topic")},
        ],
        "queues": [
            {"name": "greeter", "role": "service", "of": "greeter", "declared": declared("greeter", json!({}))},
            {"name": "logs.archive", "role": "group", "of": "logs", "declared": archive.0},
            {"name": "logs.archive.dead", "role": "dead", "of": "logs.archive", "declared": archive.1},
            {"name": "mails", "role": "work", "of": "mails", "declared": mail.0},
            {"name": "mails.dead", "role": "dead", "of": "mails", "declared": mail.1},
            {"name": "plain", "role": "named", "of": ""},
        ],
        "bindings": [{"exchange": "logs", "queue": "logs.archive", "key": "#"}],
    });
    let export = [
        "topology",
        "export",
        "--queue",
        "plain",
        "--exchange",
        "nowhere",
    ];
    eventually("all are found", || async {
        let exported: Value = serde_json::from_str(&lepus.ok(&export).await).unwrap();
        (exported == expected)
            .then_some(())
            .ok_or(exported.to_string())
    })
    .await;
    let file = std::env::temp_dir().join(format!("{}.topology.json", env.namespace()));
    std::fs::write(&file, expected.to_string()).unwrap();
    let file_name = file.to_str().unwrap();
    let diff = ["topology", "diff", file_name];
    assert_eq!(lepus.ok(&diff).await, "");

    // Other properties than those of the broker, and other bindings.
    let mut other = expected.clone();
    other["queues"][3]["declared"]["arguments"]["x-delivery-limit"] = json!(21);
    other["exchanges"][1]["declared"]["type"] = json!("fanout");
    other["bindings"] = json!([{"exchange": "logs", "queue": "logs.archive", "key": "kern.*"}]);
    std::fs::write(&file, other.to_string()).unwrap();
    let ended = lepus.run(&[&diff[..], &["-o", "json"]].concat()).await;
    assert_eq!(ended.code, Some(73), "{ended:?}");
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    let found = found.as_array().unwrap().iter();
    let word = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
    let found: Vec<_> = found
        .map(|it| {
            (
                word(it, "difference"),
                word(it, "entity"),
                word(it, "name"),
                word(it, "reason"),
            )
        })
        .collect();
    let expected_ones = [
        ("different", "exchange", "logs", "type"),
        ("different", "queue", "mails", "x-delivery-limit"),
        ("changed", "exchange", "logs", "fanout"),
        ("changed", "queue", "mails", "21"),
        ("missing", "binding", "kern.*", ""),
        ("new", "binding", "#", ""),
    ];
    assert_eq!(found.len(), expected_ones.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected_ones) {
        assert_eq!(
            (found.0.as_str(), found.1.as_str(), found.2.as_str()),
            (expected.0, expected.1, expected.2),
            "{found:?}"
        );
        assert!(found.3.contains(expected.3), "{found:?}");
    }
    // Nothing was changed by looking.
    std::fs::write(&file, expected.to_string()).unwrap();
    assert_eq!(lepus.ok(&diff).await, "");

    pool.stop().await.unwrap();
    queue::<u32>("plain", QueueKind::Classic)
        .delete(&connection)
        .await
        .unwrap();
    let images = queue::<u32>("images", QueueKind::Classic);
    let pool = images
        .worker(&connection)
        .start(async |_: Job<u32>| {})
        .await
        .unwrap();
    eventually("all differences are found", || async {
        let ended = lepus.run(&[&diff[..], &["-o", "json"]].concat()).await;
        ended.stdout.contains("images.dead")
    })
    .await;
    let ended = lepus.run(&[&diff[..], &["-o", "json"]].concat()).await;
    assert_eq!(ended.code, Some(73), "{ended:?}");
    let difference = |difference, name, role, of| json!({"difference": difference, "entity": "queue", "name": name, "role": role, "of": of, "reason": ""});
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    let expected = json!([
        difference("unserved", "mails", "work", "mails"),
        difference("missing", "plain", "named", ""),
        difference("new", "images", "work", "images"),
        difference("new", "images.dead", "dead", "images"),
    ]);
    assert_eq!(found, expected);
    let table = lepus.run(&diff).await;
    assert!(
        table.stdout.contains("UNSERVED    queue   mails"),
        "{}",
        table.stdout
    );
    std::fs::remove_file(&file).unwrap();
    pool.stop().await.unwrap();
    group.stop().await.unwrap();
    server.stop().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_file_that_is_none_is_told(env: Env) {
    let lepus = Lepus::on(&env);
    lepus
        .fails(
            &["topology", "diff", "/nowhere/t.json"],
            1,
            "cannot be read",
        )
        .await;
    let file = std::env::temp_dir().join(format!("{}.bad.json", env.namespace()));
    for (text, word) in [
        ("{", "is no file of `lepus topology export`"),
        ("{\"queues\":[]}", "missing field"),
        (
            "{\"lepus_topology\":2,\"exchanges\":[],\"queues\":[],\"bindings\":[]}",
            "has version 2",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        lepus
            .fails(&["topology", "diff", file.to_str().unwrap()], 1, word)
            .await;
    }
    std::fs::remove_file(&file).unwrap();
    let empty = lepus.ok(&["topology", "export"]).await;
    let empty: Value = serde_json::from_str(&empty).unwrap();
    assert_eq!(empty["queues"], json!([]));
}
