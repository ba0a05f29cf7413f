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
    let expected = json!({
        "lepus_topology": 1,
        "exchanges": [
            {"name": "lepus.control", "role": "control"},
            {"name": "logs", "role": "events"},
        ],
        "queues": [
            {"name": "greeter", "role": "service", "of": "greeter"},
            {"name": "logs.archive", "role": "group", "of": "logs"},
            {"name": "logs.archive.dead", "role": "dead", "of": "logs.archive"},
            {"name": "mails", "role": "work", "of": "mails"},
            {"name": "mails.dead", "role": "dead", "of": "mails"},
            {"name": "plain", "role": "named", "of": ""},
        ],
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
    let difference = |difference, name, role, of| json!({"difference": difference, "entity": "queue", "name": name, "role": role, "of": of});
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
            "{\"lepus_topology\":2,\"exchanges\":[],\"queues\":[]}",
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
