//! `dead ls`, `dead show`, `dead replay` and `dead purge`.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;

use lepus::amqp::QueueKind;
use lepus::{Codec, Connection, Job, WorkQueue, reject};
use lepus_tests::jobs::{KINDS, policy, queue, recorder};
use lepus_tests::process::Signal;
use lepus_tests::{Env, conformance, eventually};
use serde_json::json;

use crate::on::Lepus;

conformance!(
    letters_are_listed_and_shown,
    a_letter_of_any_type_is_shown,
    one_some_or_all_are_replayed,
    a_dry_run_replays_nothing,
    what_is_refused_stays_and_is_told,
    letters_are_purged,
    a_mistake_is_told,
    a_replay_that_is_interrupted_tells_how_far_it_came,
    a_replay_that_is_killed_loses_nothing,
);

/// So many dead letters, with the ids `job-0` and so on, whose error names their parity.
async fn bury(connection: &Connection, queue: &WorkQueue<u32>, count: u32) {
    let producer = queue.producer(connection);
    for job in 0..count {
        let push = producer.push(&job).message_id(&format!("job-{job}"));
        push.header("tenant", if job == 0 { "hare" } else { "rabbit" })
            .await
            .unwrap();
    }
    let handler = |job: Job<u32>| async move {
        let parity = if job.payload().is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        Err::<(), _>(reject(format!("the disk is busy: {parity}")))
    };
    let running = queue.worker(connection).start(handler).await.unwrap();
    dead(connection, queue, count).await;
    running.stop().await.unwrap();
}

async fn dead(connection: &Connection, queue: &WorkQueue<u32>, count: u32) {
    let letters = queue.dead_letters(connection);
    eventually(&format!("{count} dead letters"), || async {
        let there = letters.count().await.unwrap();
        (there == count).then_some(()).ok_or(there.to_string())
    })
    .await;
}

async fn waiting(connection: &Connection, queue: &WorkQueue<u32>, count: u32) {
    eventually(&format!("{count} jobs wait"), || async {
        let there = queue.count(connection).await.unwrap().messages;
        (there == count).then_some(()).ok_or(there.to_string())
    })
    .await;
}

async fn letters_are_listed_and_shown(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).retry(policy(2, 10));
        let push = queue.producer(&connection).push(&7).message_id("seven");
        push.header("tenant", "hare").await.unwrap();
        let handler =
            |job: Job<u32>| async move { Err::<(), _>(format!("failure {}", job.attempt())) };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        dead(&connection, &queue, 1).await;
        let expected = json!([{"queue": name, "dead_queue": format!("{name}.dead"), "letters": 1}]);
        assert_eq!(lepus.json(&["dead", "ls", name]).await, expected);
        // Found by its worker, whose control queue may still be bound.
        eventually("it is found", || async {
            lepus.json(&["dead", "ls"]).await == expected
        })
        .await;
        running.stop().await.unwrap();
        let letters = lepus.json(&["dead", "show", name]).await;
        let letter = &letters[0];
        assert_eq!(
            (&letter["id"], &letter["reason"]),
            (&json!("seven"), &json!("attempts"))
        );
        assert_eq!(
            (&letter["attempts"], &letter["body"]),
            (&json!(2), &json!(7))
        );
        assert_eq!(letter["error"], "failure 2");
        assert_eq!(letter["first_error"], "failure 1");
        assert_eq!(letter["headers"], json!({"tenant": "hare"}));
        assert_eq!(
            (&letter["queue"], &letter["task"]),
            (&json!(name), &json!(null))
        );
        assert!(
            letter["failed_at"].as_str().unwrap().ends_with('Z'),
            "{letter}"
        );
        let table = lepus.ok(&["dead", "show", name]).await;
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            (words[0], words[1], words[2]),
            ("seven", "attempts", "2"),
            "{table}"
        );
        let details = lepus.ok(&["dead", "show", name, "--id", "seven"]).await;
        for text in [
            "first error   failure 1",
            "error         failure 2",
            "headers       tenant=hare",
        ] {
            assert!(details.contains(text), "{text}\n{details}");
        }
        let chosen = lepus
            .json(&["dead", "show", name, "--where", "error~nothing"])
            .await;
        assert_eq!(chosen, json!([]));
        dead(&connection, &queue, 1).await;
        queue.delete(&connection).await.unwrap();
    }
    connection.close().await;
}

async fn a_letter_of_any_type_is_shown(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = WorkQueue::<u32>::new("jobs").classic();
    queue.declare(&connection).await.unwrap();
    let map = WorkQueue::<HashMap<u8, bool>>::new("jobs.dead").passive();
    map.producer(&connection)
        .push(&HashMap::from([(7, true)]))
        .await
        .unwrap();
    let bytes = WorkQueue::bytes("jobs.dead").passive();
    bytes
        .producer(&connection)
        .push(&vec![0, 0xff])
        .await
        .unwrap();
    let json = WorkQueue::<serde_json::Value>::new("jobs.dead")
        .codec(Codec::Json)
        .passive();
    let user = json!({"user": {"id": 7, "name": "\u{1b}[31m"}});
    json.producer(&connection)
        .push(&user)
        .task("greet")
        .await
        .unwrap();
    let letters = lepus.ok(&["dead", "show", "jobs", "-o", "jsonl"]).await;
    let letters: Vec<serde_json::Value> = letters
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(letters[0]["body"], json!({"$map": [[7, true]]}));
    assert_eq!(letters[1]["body"], json!({"$bytes": "AP8="}));
    assert_eq!(letters[2]["body"], user);
    assert_eq!(letters[2]["task"], "greet");
    let by_body = [
        "dead",
        "show",
        "jobs",
        "--where",
        "body.user.id==7 && task==greet",
    ];
    assert_eq!(lepus.json(&by_body).await.as_array().unwrap().len(), 1);
    let table = lepus.ok(&["dead", "show", "jobs"]).await;
    assert!(!table.contains('\u{1b}'), "{table:?}");
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn one_some_or_all_are_replayed(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        bury(&connection, &queue, 8).await;
        let replay = ["dead", "replay", name];
        let one = lepus
            .json(&[&replay[..], &["--id", "job-3"]].concat())
            .await;
        assert_eq!((&one["replayed"], &one["refused"]), (&json!(1), &json!([])));
        dead(&connection, &queue, 7).await;
        let chosen = [
            "--where",
            "error~odd && header.tenant==rabbit",
            "--limit",
            "2",
        ];
        let some = lepus.json(&[&replay[..], &chosen].concat()).await;
        assert_eq!(some["replayed"], 2);
        dead(&connection, &queue, 5).await;
        let table = lepus.ok(&replay).await;
        assert!(table.starts_with("REPLAYED  KEPT  REFUSED\n"), "{table}");
        dead(&connection, &queue, 0).await;
        let none = lepus.json(&replay).await;
        assert_eq!(none["replayed"], 0);
        waiting(&connection, &queue, 8).await;
        queue.delete(&connection).await.unwrap();
    }
    connection.close().await;
}

async fn a_dry_run_replays_nothing(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = WorkQueue::<u32>::new("jobs");
    bury(&connection, &queue, 5).await;
    let dry = [
        "dead",
        "replay",
        "jobs",
        "--where",
        "error~even",
        "--dry-run",
    ];
    let result = lepus.json(&dry).await;
    let expected = json!({
        "replayed": 3, "kept": 2, "refused": [], "is_dry_run": true, "is_interrupted": false,
    });
    assert_eq!(result, expected);
    let table = lepus.ok(&dry).await;
    assert!(table.starts_with("WOULD BE REPLAYED"), "{table}");
    dead(&connection, &queue, 5).await;
    assert_eq!(queue.count(&connection).await.unwrap().messages, 0);
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn what_is_refused_stays_and_is_told(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = WorkQueue::<u32>::new("jobs").classic().max_length(2);
    queue.declare(&connection).await.unwrap();
    let letters = WorkQueue::<u32>::new("jobs.dead").passive();
    let producer = letters.producer(&connection);
    for job in 0..4 {
        producer
            .push(&job)
            .message_id(&format!("job-{job}"))
            .await
            .unwrap();
    }
    let ended = lepus.run(&["dead", "replay", "jobs", "-o", "json"]).await;
    assert_eq!(ended.code, Some(72), "{ended:?}");
    let result: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&result["replayed"], &result["kept"]),
        (&json!(2), &json!(2)),
        "{result}"
    );
    let refused = result["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 2, "{result}");
    assert!(
        refused[0]["error"].as_str().unwrap().contains("rejected"),
        "{result}"
    );
    let id = refused[0]["id"].as_str().unwrap();
    assert!(
        ended.stderr.contains(&format!("refused: letter {id}")),
        "{ended:?}"
    );
    dead(&connection, &queue, 2).await;
    waiting(&connection, &queue, 2).await;
    // Nothing can be replayed to a queue that is not there.
    let passive = WorkQueue::<u32>::new("jobs.dead").passive();
    passive.count(&connection).await.unwrap();
    let gone = ["dead", "replay", "gone", "--dead-queue", "jobs.dead"];
    lepus.fails(&gone, 4, "gone").await;
    dead(&connection, &queue, 2).await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn letters_are_purged(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = WorkQueue::<u32>::new("jobs").dead_letter_queue("graveyard");
    queue.declare(&connection).await.unwrap();
    let letters = WorkQueue::<u32>::new("graveyard").passive();
    letters.producer(&connection).push(&7).await.unwrap();
    let purge = ["dead", "purge", "jobs", "--dead-queue", "graveyard"];
    lepus
        .fails(&purge, 1, "`graveyard` has 1 dead letters")
        .await;
    dead(&connection, &queue, 1).await;
    // A worker tells that its dead letters have another queue than usual.
    let running = queue.worker(&connection).start(async |_: Job<u32>| {});
    let running = running.await.unwrap();
    let listed = json!([{"queue": "jobs", "dead_queue": "graveyard", "letters": 1}]);
    eventually("it is found", || async {
        let found = lepus.run(&["dead", "ls", "-o", "json"]).await.stdout;
        let is_same = serde_json::from_str(&found).is_ok_and(|it: serde_json::Value| it == listed);
        is_same.then_some(()).ok_or(found)
    })
    .await;
    assert_eq!(lepus.json(&["dead", "ls", "jobs"]).await, listed);
    assert_eq!(lepus.json(&["jobs", "ls", "jobs"]).await[0]["dead"], 1);
    running.stop().await.unwrap();
    assert_eq!(lepus.ok(&[&purge[..], &["--yes"]].concat()).await, "1\n");
    dead(&connection, &queue, 0).await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_mistake_is_told(env: Env) {
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let queue = WorkQueue::<u32>::new("jobs").classic();
    queue.declare(&connection).await.unwrap();
    for (arguments, code, text) in [
        (
            &["show", "nowhere"][..],
            4,
            "there is no queue `nowhere.dead`",
        ),
        (
            &["replay", "nowhere"],
            4,
            "there is no queue `nowhere.dead`",
        ),
        (
            &["purge", "nowhere", "--yes"],
            4,
            "there is no queue `nowhere.dead`",
        ),
        (&["ls", "nowhere"], 4, "there is no queue `nowhere.dead`"),
        (
            &["show", "jobs", "--where", "reason=attempts"],
            1,
            "column 7: `=` is no operator",
        ),
        (
            &["replay", "jobs", "--where", "raeson==attempts"],
            1,
            "column 1: `raeson` is no field",
        ),
        (
            &["replay", "jobs", "--id", "x", "--where", "reason==y"],
            1,
            "cannot be used with",
        ),
        (&["replay", "jobs", "--limit", "many"], 1, "many"),
        (&["replay"], 1, "QUEUE"),
    ] {
        let ended = lepus.run(&[&["dead"], arguments].concat()).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {ended:?}");
    }
    for command in ["show", "replay"] {
        let ended = lepus
            .run(&["dead", command, "jobs", "--id", "nobody"])
            .await;
        assert_eq!(ended.code, Some(69), "{command}: {ended:?}");
        assert!(
            ended.stderr.contains("no dead letter `nobody`"),
            "{ended:?}"
        );
    }
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

/// The letters of a test with many.
const MANY: u32 = 10_000;

/// A queue with many dead letters, whose payloads are their numbers.
async fn many(connection: &Connection) -> WorkQueue<u32> {
    let queue = queue::<u32>("jobs", QueueKind::Classic);
    queue.declare(connection).await.unwrap();
    let letters = WorkQueue::<u32>::new("jobs.dead").passive();
    let jobs: Vec<u32> = (0..MANY).collect();
    for result in letters.producer(connection).push_all(&jobs).await {
        result.unwrap();
    }
    dead(connection, &queue, MANY).await;
    queue
}

/// Starts to replay, and returns when some are in the work queue.
async fn replaying(
    env: &Env,
    connection: &Connection,
    queue: &WorkQueue<u32>,
) -> lepus_tests::process::Program {
    let program = Lepus::on(env).start(&["dead", "replay", "jobs", "-o", "json"]);
    eventually("it is replaying", || async {
        queue.count(connection).await.unwrap().messages >= 100
    })
    .await;
    program
}

async fn a_replay_that_is_interrupted_tells_how_far_it_came(env: Env) {
    let connection = env.connect().await;
    let queue = many(&connection).await;
    let program = replaying(&env, &connection, &queue).await;
    program.signal(Signal::INT);
    let ended = program.ended().await;
    assert_eq!(ended.status.code(), Some(130), "{}", ended.printed);
    let result: serde_json::Value = serde_json::from_str(&ended.lines.join("\n")).unwrap();
    let replayed = u32::try_from(result["replayed"].as_u64().unwrap()).unwrap();
    assert!((100..MANY).contains(&replayed), "{result}");
    // None is doubled.
    waiting(&connection, &queue, replayed).await;
    dead(&connection, &queue, MANY - replayed).await;
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn a_replay_that_is_killed_loses_nothing(env: Env) {
    const IN_HAND: usize = 64;
    let connection = env.connect().await;
    let queue = many(&connection).await;
    let program = replaying(&env, &connection, &queue).await;
    program.signal(Signal::KILL);
    let ended = program.ended().await;
    assert_eq!(ended.status.signal(), Some(9), "{}", ended.printed);
    let letters = queue.dead_letters(&connection);
    eventually("what it held is back", || async {
        let (dead, jobs) = (
            letters.count().await.unwrap(),
            queue.count(&connection).await.unwrap(),
        );
        let all = dead + jobs.messages;
        (all >= MANY && dead > 0)
            .then_some(())
            .ok_or(format!("{dead} and {}", jobs.messages))
    })
    .await;
    let result = Lepus::on(&env).json(&["dead", "replay", "jobs"]).await;
    assert_eq!(result["refused"], json!([]));
    assert_eq!(letters.count().await.unwrap(), 0);
    let jobs = queue.count(&connection).await.unwrap().messages;
    let (handler, mut told) = recorder::<u32>();
    let worker = queue.worker(&connection).concurrency(500);
    let running = worker.start(handler).await.unwrap();
    let mut seen: HashMap<u32, usize> = HashMap::new();
    for _ in 0..jobs {
        *seen
            .entry(lepus_tests::jobs::next(&mut told).await)
            .or_default() += 1;
    }
    running.stop().await.unwrap();
    assert_eq!(seen.len(), MANY as usize, "none is lost");
    let doubled = seen.values().filter(|times| **times > 1).count();
    assert!(doubled <= IN_HAND, "{doubled} are doubled");
    assert!(seen.values().all(|times| *times <= 2));
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}
