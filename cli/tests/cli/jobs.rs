//! `jobs push`, `jobs ls` and `jobs peek`.

use std::time::Duration;

use lepus::amqp::{QueueKind, Value};
use lepus::jobs::TaskPool;
use lepus::{Codec, Job, WorkQueue};
use lepus_tests::jobs::{KINDS, next, queue, recorder};
use lepus_tests::{Env, conformance, eventually};
use tokio::sync::mpsc;

use crate::on::Lepus;

conformance!(
    json_is_pushed_as_it_is_written,
    a_job_is_pushed_to_a_queue_of_any_kind,
    a_task_is_pushed_by_its_name,
    a_job_is_delayed_in_a_queue_that_nobody_has_declared,
    jobs_are_pushed_from_stdin,
    a_job_that_cannot_be_pushed_is_told,
    queues_are_listed,
    a_peek_consumes_nothing,
    a_peek_at_nothing_is_told,
);

async fn json_is_pushed_as_it_is_written(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = queue::<u32>("jobs", lepus::amqp::QueueKind::Classic);
    queue.declare(&connection).await.unwrap();
    let (large, small) = (
        "340282366920938463463374607431768211455",
        "-9223372036854775809",
    );
    let jobs = format!("{{\"n\": {large}, \"a\": [1.10]}}\n[{small}]\n");
    let pushed = lepus.run_with(&["jobs", "push", "jobs", "-"], &jobs).await;
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    let peeked = lepus
        .ok(&["jobs", "peek", "jobs", "-n", "2", "-o", "jsonl"])
        .await;
    let bodies: Vec<_> = peeked.lines().collect();
    assert!(
        bodies[0].contains(&format!("\"body\":{{\"n\":{large},\"a\":[1.10]}}")),
        "{peeked}"
    );
    assert!(
        bodies[1].contains(&format!("\"body\":[{small}]")),
        "{peeked}"
    );
    queue.delete(&connection).await.unwrap();
    connection.close().await;
}

async fn a_job_is_pushed_to_a_queue_of_any_kind(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        // Whatever the properties of the queue are, and whatever its codec.
        let queue = queue::<Vec<u64>>(name, kind)
            .max_length(10)
            .codec(Codec::MsgPack);
        queue.declare(&connection).await.unwrap();
        let id = lepus.ok(&["jobs", "push", name, "[1,2]"]).await;
        let options = [
            "--id",
            "seven",
            "-H",
            "tenant=hare",
            "-H",
            "n=7",
            "-o",
            "jsonl",
        ];
        let pushed = lepus
            .ok(&[&["jobs", "push", name, "[3]"], &options[..]].concat())
            .await;
        let pushed: serde_json::Value = serde_json::from_str(&pushed).unwrap();
        assert_eq!(
            pushed,
            serde_json::json!({"id": "seven", "queue": name, "task": null})
        );
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<Vec<u64>>| {
            tell.send(job).unwrap();
            async {}
        };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        let first = next(&mut told).await;
        assert_eq!(
            (first.payload(), first.message_id()),
            (&vec![1, 2], Some(id.trim()))
        );
        let second = next(&mut told).await;
        assert_eq!(
            (second.payload(), second.message_id()),
            (&vec![3], Some("seven"))
        );
        assert_eq!(second.header("tenant"), Some(&Value::from("hare")));
        assert_eq!(second.header("n"), Some(&Value::Int(7)));
        running.stop().await.unwrap();
    }
    let text = WorkQueue::text("text");
    text.declare(&connection).await.unwrap();
    lepus
        .ok(&["jobs", "push", "text", "--text", "a plain text"])
        .await;
    let job = text.getter(&connection).next().await.unwrap().unwrap();
    assert_eq!(
        (job.bytes(), job.content_type()),
        (&b"a plain text"[..], Some("text/plain"))
    );
    job.ack().unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

#[lepus::tasks(name = "images")]
trait Images {
    async fn resize(&self, id: u64, width: u32);
}

struct Told(mpsc::UnboundedSender<(u64, u32)>);

impl Images for Told {
    async fn resize(&self, id: u64, width: u32) {
        self.0.send((id, width)).unwrap();
    }
}

async fn a_task_is_pushed_by_its_name(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = TaskPool::new(&connection, ImagesWorker::new(Told(tell)));
    let running = pool.start().await.unwrap();
    let json = r#"{"id": 7, "width": 640}"#;
    lepus.ok(&["jobs", "push", "images.resize", json]).await;
    assert_eq!(next(&mut told).await, (7, 640));
    let json = r#"{"id": 8, "width": 320}"#;
    lepus
        .ok(&["jobs", "push", "images", "--task", "resize", json])
        .await;
    assert_eq!(next(&mut told).await, (8, 320));
    running.stop().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_job_is_delayed_in_a_queue_that_nobody_has_declared(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).codec(Codec::Json);
        let (handler, mut told) = recorder::<u32>();
        let running = queue.worker(&connection).start(handler).await.unwrap();
        let classic: &[&str] = match kind {
            QueueKind::Classic => &["--classic"],
            _ => &[],
        };
        let push = ["jobs", "push", name, "7", "--delay", "300ms"];
        let began = std::time::Instant::now();
        lepus.ok(&[&push[..], classic].concat()).await;
        assert_eq!(next(&mut told).await, 7);
        // Not before its delay, on a slow machine as well.
        assert!(began.elapsed() >= Duration::from_millis(300));
        // The program's own declaration of that queue is not contradicted.
        queue
            .producer(&connection)
            .push(&8)
            .delay(Duration::from_millis(300))
            .await
            .unwrap();
        assert_eq!(next(&mut told).await, 8);
        queue
            .declare_delay_queue(&connection, Duration::from_millis(300))
            .await
            .unwrap();
        running.stop().await.unwrap();
        queue.delete(&connection).await.unwrap();
    }
    connection.close().await;
}

async fn jobs_are_pushed_from_stdin(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = queue::<u32>("jobs", QueueKind::Classic).codec(Codec::Json);
    queue.declare(&connection).await.unwrap();
    let ended = lepus
        .run_with(&["jobs", "push", "jobs", "-"], "1\n\n2\n3")
        .await;
    assert_eq!(
        (ended.code, ended.stdout.lines().count()),
        (Some(0), 3),
        "{ended:?}"
    );
    assert_eq!(queue.count(&connection).await.unwrap().messages, 3);
    let ended = lepus
        .run_with(&["jobs", "push", "jobs", "-"], "4\n{\n5\n")
        .await;
    assert_eq!(
        (ended.code, ended.stdout.lines().count()),
        (Some(1), 1),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("line 2 of stdin is no JSON"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("1 jobs were pushed before"),
        "{ended:?}"
    );
    assert_eq!(queue.count(&connection).await.unwrap().messages, 4);
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_job_that_cannot_be_pushed_is_told(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    queue::<u32>("full", QueueKind::Classic)
        .max_length(1)
        .declare(&connection)
        .await
        .unwrap();
    lepus.ok(&["jobs", "push", "full", "1"]).await;
    for (arguments, code, text) in [
        (&["nowhere", "1"][..], 4, "there is no queue `nowhere`"),
        (
            &["no.where", "1"],
            4,
            "there is no queue `no.where`, and no queue `no`",
        ),
        (&["full", "2"], 72, "rejected"),
        (&["full", "{"], 1, "the document is no JSON"),
        (&["full", "hare"], 1, "a text is written"),
        (
            &["full", "@/nowhere/job.json"],
            1,
            "/nowhere/job.json cannot be read",
        ),
        (&["full", "1", "--delay", "soon"], 1, "no time"),
        (&["full", "1", "--delay", "60d"], 1, "delays a job by"),
        (&["full", "1", "-H", "tenant"], 1, "no header"),
        (&["full", "1", "-H", "attempt=9"], 1, "attempt"),
        (&["full", "-", "--id", "x"], 1, "--id"),
        (&[&*"q".repeat(300), "1"], 1, "255"),
    ] {
        lepus
            .fails(&[&["jobs", "push"], arguments].concat(), code, text)
            .await;
    }
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn queues_are_listed(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let mails = queue::<u32>("mails", QueueKind::Classic);
    let running = mails
        .worker(&connection)
        .start(async |_: Job<u32>| {})
        .await
        .unwrap();
    let (tell, _told) = mpsc::unbounded_channel();
    let pool = TaskPool::new(&connection, ImagesWorker::new(Told(tell)));
    let tasks = pool.start().await.unwrap();
    let plain = WorkQueue::bytes("plain");
    plain.declare(&connection).await.unwrap();
    plain.producer(&connection).push(&vec![7]).await.unwrap();
    let expected = serde_json::json!([
        {"name": "images", "kind": "tasks", "ready": 0, "consumers": 1, "dead": 0, "instances": 1},
        {"name": "mails", "kind": "queue", "ready": 0, "consumers": 1, "dead": 0, "instances": 1},
    ]);
    // An instance is found when its control queue is bound.
    eventually("both are found", || async {
        let listed = lepus.json(&["jobs", "ls"]).await;
        (listed == expected).then_some(()).ok_or(listed.to_string())
    })
    .await;
    let listed = lepus.json(&["jobs", "ls", "plain"]).await;
    let expected = serde_json::json!([
        {"name": "plain", "kind": null, "ready": 1, "consumers": 0, "dead": 0, "instances": 0},
    ]);
    assert_eq!(listed, expected);
    let table = lepus.ok(&["jobs", "ls", "plain", "mails"]).await;
    let words: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[0],
        ["QUEUE", "KIND", "READY", "CONSUMERS", "INSTANCES", "DEAD"]
    );
    assert_eq!(words[1], ["mails", "queue", "0", "1", "1", "0"]);
    assert_eq!(words[2], ["plain", "-", "1", "0", "0", "0"]);
    let ended = lepus.run(&["jobs", "ls", "plain", "none"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stdout.contains("plain") && ended.stderr.contains("no queue `none`"),
        "{ended:?}"
    );
    running.stop().await.unwrap();
    tasks.stop().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_peek_consumes_nothing(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        for job in 0..3 {
            let push = queue.producer(&connection).push(&job);
            push.message_id(&format!("job-{job}"))
                .header("tenant", "hare")
                .await
                .unwrap();
        }
        let jobs = lepus.json(&["jobs", "peek", name]).await;
        let jobs = jobs.as_array().unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0]["id"], "job-0");
        assert_eq!(jobs[0]["body"], 0);
        assert_eq!(jobs[0]["headers"], serde_json::json!({"tenant": "hare"}));
        assert_eq!(jobs[0]["redelivered"], false);
        let jobs = lepus.json(&["jobs", "peek", name, "-n", "10"]).await;
        assert_eq!(jobs.as_array().unwrap().len(), 3, "{jobs}");
        eventually("they are back", || async {
            queue.count(&connection).await.unwrap().messages == 3
        })
        .await;
        let table = lepus.run(&["jobs", "peek", name, "-n", "2"]).await;
        assert_eq!(table.stdout.lines().count(), 3, "{table:?}");
        assert!(table.stderr.contains("redelivered"), "{table:?}");
        eventually("they are back", || async {
            queue.count(&connection).await.unwrap().messages == 3
        })
        .await;
        let (handler, mut told) = recorder::<u32>();
        let running = queue.worker(&connection).start(handler).await.unwrap();
        let mut seen = [
            next(&mut told).await,
            next(&mut told).await,
            next(&mut told).await,
        ];
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        running.stop().await.unwrap();
        queue.delete(&connection).await.unwrap();
    }
    connection.close().await;
}

async fn a_peek_at_nothing_is_told(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    queue::<u32>("empty", QueueKind::Classic)
        .declare(&connection)
        .await
        .unwrap();
    let ended = lepus.run(&["jobs", "peek", "empty", "-o", "json"]).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "[]\n"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("no job that waits"), "{ended:?}");
    // Another program's, which has no dead letters.
    let raw = lepus_tests::raw::Raw::open(&env.uri).await;
    raw.declare(&env.name("foreign")).await;
    raw.publish("", &env.name("foreign"), b"a text").await;
    let jobs = lepus.json(&["jobs", "peek", "foreign"]).await;
    assert_eq!(jobs[0]["body"], "a text");
    raw.close().await;
    lepus
        .fails(
            &["jobs", "peek", "nowhere"],
            4,
            "there is no queue `nowhere`",
        )
        .await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}
