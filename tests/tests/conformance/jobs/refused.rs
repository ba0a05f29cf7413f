//! Refusals of the broker: messages, declarations, polls, and acknowledgements that come too late.
//! Each error is about its own message, nothing else pays for it, and no job is lost for it.

use futures_util::future::join_all;
use lapin::types::AMQPValue;
use lepus::{Connection, Job, Outcome, Topic, WorkQueue, amqp::QueueKind};
use lepus_broker::{Broker, Target};
use lepus_tests::jobs::{JobFixture, KINDS, next, policy, queue};
use lepus_tests::log::Log;
use lepus_tests::node::{self, Node};
use lepus_tests::probe::{ProbeClient, Subject, serve, serve_concurrently};
use lepus_tests::proxy::{Cut, Way};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance, deadline, eventually, frames};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// For a node on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Much longer than a stop may take in these tests.
const GRACE: Duration = Duration::from_secs(120);
/// Much shorter than that.
const STOP: Duration = Duration::from_secs(30);

/// So many at once, and the bad one among them.
const MANY: u32 = 200;
const BAD: u32 = 100;

conformance!(
    a_push_with_a_bad_header_fails_alone,
    several_bad_pushes_fail_alone,
    an_event_with_a_bad_header_fails_alone,
    events_are_told_apart_where_the_brokers_text_names_nothing,
    a_push_that_is_nacked_when_published_again_may_have_been_stored,
    an_event_that_nobody_gets_when_published_again_may_have_been_routed,
    a_oneway_call_with_a_bad_header_tells_the_others_that_they_are_unconfirmed,
    a_stream_is_not_polled_at_the_cost_of_others,
    a_foreign_queue_is_polled,
    a_declaration_that_fails_in_the_broker_is_made_once_more,
);

/// Takes what is in a queue of numbers, each with how often it is there.
async fn numbers(raw: &Raw, queue: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(message) = raw.get(queue).await {
        numbers.push(rmp_serde::from_slice(&message.data).expect("a number"));
    }
    numbers
}

async fn a_push_with_a_bad_header_fails_alone(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let producer = queue::<u32>(name, kind).producer(&fixture.connection);
        producer.push(&MANY).await.expect("a stored job");
        let pushes = (0..MANY).map(|number| {
            let push = producer.push(&number);
            match number {
                BAD => push.header("CC", 5),
                _ => push,
            }
        });
        let outcomes = join_all(pushes.map(IntoFuture::into_future)).await;
        for (number, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(()) => assert_ne!(number, BAD, "{name}"),
                Err(error) => {
                    assert_eq!(number, BAD, "{name}: {error:?}");
                    assert_eq!(error.amqp_code(), Some(406), "{error:?}");
                    assert_eq!(error.outcome(), Some(Outcome::Rejected), "{error:?}");
                    assert!(error.to_string().contains("CC"), "{error}");
                }
            }
        }
        let stored: BTreeSet<u32> = numbers(&fixture.raw, &fixture.full(name))
            .await
            .into_iter()
            .collect();
        let expected: BTreeSet<u32> = (0..=MANY).filter(|number| *number != BAD).collect();
        assert_eq!(stored, expected, "{name}");
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

/// The broker takes a job, closes the channel for another one's sake before it confirms it, and
/// refuses it when it comes again.
async fn a_push_that_is_nacked_when_published_again_may_have_been_stored(env: Env) {
    let fixture = JobFixture::open(env).await;
    let Some(broker) = fixture.env.embedded() else {
        return fixture
            .env
            .leave_out("RabbitMQ withholds no confirms on demand");
    };
    let producer = queue::<u32>("jobs", QueueKind::Classic).producer(&fixture.connection);
    producer.push(&0).await.expect("a stored job");
    broker.faults().withhold_confirms(Target::All);
    let taken = tokio::spawn(producer.push(&1).into_future());
    fixture.raw.until_messages(&fixture.full("jobs"), 2).await;
    broker.faults().nack_next(Target::All, MANY);
    let bad = tokio::spawn(producer.push(&BAD).header("CC", 5).into_future());
    // It has come again.
    fixture.raw.until_messages(&fixture.full("jobs"), 3).await;
    broker.faults().release_confirms(Target::All);
    let error = taken.await.unwrap().unwrap_err();
    assert!(error.may_have_executed(), "{error:?}");
    assert!(error.is_unconfirmed() && !error.is_rejected(), "{error:?}");
    let error = bad.await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::Rejected), "{error:?}");
    fixture.delete_queues(&["jobs"]).await;
}

/// The same for an event whose exchange is deleted: when it comes again, the exchange is there and
/// its bindings are not.
async fn an_event_that_nobody_gets_when_published_again_may_have_been_routed(env: Env) {
    let fixture = JobFixture::open(env).await;
    let Some(broker) = fixture.env.embedded() else {
        return fixture
            .env
            .leave_out("RabbitMQ withholds no confirms on demand");
    };
    let publisher = Topic::<u32>::new("news").publisher(&fixture.connection);
    publisher.publish("a", &0).await.expect("the exchange");
    let (exchange, queue) = (fixture.full("news"), fixture.env.name("seen"));
    fixture.raw.declare(&queue).await;
    fixture.raw.bind(&queue, &exchange, "#", &[]).await;
    broker.faults().withhold_confirms(Target::All);
    let publisher = publisher.mandatory();
    let taken = tokio::spawn(publisher.publish("a", &1).into_future());
    fixture.raw.until_messages(&queue, 1).await;
    fixture.raw.delete_exchange(&exchange).await;
    let lost = tokio::spawn(publisher.publish("a", &2).into_future());
    eventually("the exchange is there again", || async {
        broker
            .exchanges()
            .iter()
            .any(|known| known.name == exchange)
    })
    .await;
    broker.faults().release_confirms(Target::All);
    let error = taken.await.unwrap().unwrap_err();
    assert!(error.may_have_executed(), "{error:?}");
    lost.await.unwrap().unwrap_err();
    assert_eq!(numbers(&fixture.raw, &queue).await, [1]);
    fixture.raw.delete_exchange(&exchange).await;
    fixture.delete_queues(&[]).await;
}

async fn several_bad_pushes_fail_alone(env: Env) {
    let fixture = JobFixture::open(env).await;
    let producer = queue::<u32>("jobs", QueueKind::Classic).producer(&fixture.connection);
    producer.push(&MANY).await.expect("a stored job");
    let pushes = (0..MANY).map(|number| {
        let push = producer.push(&number);
        match number % 50 {
            7 => push.header("BCC", 5),
            _ => push,
        }
    });
    let outcomes = join_all(pushes.map(IntoFuture::into_future)).await;
    let failed = (0..).zip(outcomes).filter_map(|(number, outcome)| {
        let error = outcome.err()?;
        assert_eq!(error.amqp_code(), Some(406), "{number}: {error:?}");
        Some(number)
    });
    assert_eq!(failed.collect::<Vec<u32>>(), [7, 57, 107, 157]);
    fixture.delete_queues(&["jobs"]).await;
}

async fn an_event_with_a_bad_header_fails_alone(env: Env) {
    let fixture = JobFixture::open(env).await;
    let topic = Topic::<u32>::new("news");
    let publisher = topic.publisher(&fixture.connection);
    publisher.publish("a.b", &0).await.expect("the exchange");
    let (exchange, queue) = (fixture.full("news"), fixture.env.name("seen"));
    fixture.raw.declare(&queue).await;
    fixture.raw.bind(&queue, &exchange, "#", &[]).await;
    let publishes = (0..MANY).map(|number| {
        let publish = publisher.publish("a.b", &number);
        match number {
            BAD => publish.header("CC", 5),
            _ => publish,
        }
    });
    let outcomes = join_all(publishes.map(IntoFuture::into_future)).await;
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(()) => assert_ne!(number, BAD),
            Err(error) => {
                assert_eq!(number, BAD, "{error:?}");
                assert_eq!(error.amqp_code(), Some(406), "{error:?}");
            }
        }
    }
    let seen: BTreeSet<u32> = numbers(&fixture.raw, &queue).await.into_iter().collect();
    let expected: BTreeSet<u32> = (0..MANY).filter(|number| *number != BAD).collect();
    assert_eq!(seen, expected);
    fixture.raw.delete_exchange(&exchange).await;
    fixture.delete_queues(&[]).await;
}

/// The text that a broker closes a channel with has 255 bytes: a long name is cut off.
async fn events_are_told_apart_where_the_brokers_text_names_nothing(env: Env) {
    let fixture = JobFixture::open(env).await;
    let name = "x".repeat(240 - fixture.full("").len());
    let topic = Topic::<u32>::new(&name);
    let publisher = topic.publisher(&fixture.connection);
    publisher.publish("a", &MANY).await.expect("the exchange");
    fixture.raw.delete_exchange(&fixture.full(&name)).await;
    let publishes = (0..20).map(|number| publisher.publish("a", &number).into_future());
    for (number, outcome) in (0..).zip(join_all(publishes).await) {
        outcome.unwrap_or_else(|error| panic!("{number}: {error:?}"));
    }
    fixture.raw.delete_exchange(&fixture.full(&name)).await;
    fixture.delete_queues(&[]).await;
}

async fn a_oneway_call_with_a_bad_header_tells_the_others_that_they_are_unconfirmed(env: Env) {
    let connection = env.connect().await;
    let subject = Arc::new(Subject::default());
    let server = serve(&connection, &subject)
        .start()
        .await
        .expect("a server");
    let probe = ProbeClient::new(&connection);
    let calls = (0..MANY).map(|number| {
        let call = probe.note(number);
        match number {
            BAD => call.header("CC", 5),
            _ => call,
        }
    });
    let outcomes = join_all(calls.map(IntoFuture::into_future)).await;
    for (number, outcome) in (0..).zip(outcomes) {
        let Err(error) = outcome else {
            assert_ne!(number, BAD);
            continue;
        };
        let error = error.rpc().expect("an error of the call").clone();
        if number == BAD {
            assert_eq!(error.amqp_code(), Some(406), "{error:?}");
            assert!(!error.may_have_executed(), "{error:?}");
        } else {
            assert!(error.is_unconfirmed(), "{number}: {error:?}");
            assert!(error.may_have_executed(), "{number}: {error:?}");
        }
    }
    server.stop().await.expect("a drained server");
    connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_too_large_for_the_broker_fails_alone() {
    let broker = Broker::builder().max_message(100_000);
    let broker = broker.start().await.expect("a broker");
    too_large(&broker.uri()).await;
}

async fn too_large(uri: &str) {
    let connection = Connection::open(uri).await.expect("a connection");
    let producer = queue::<Vec<u8>>("large", QueueKind::Classic).producer(&connection);
    let (small, large) = (vec![1; 1000], vec![200; 150_000]);
    producer.push(&small).await.expect("a stored job");
    let jobs = (0..MANY).map(|number| if number % 50 == 7 { &large } else { &small });
    let pushed = producer.push_all(jobs.clone()).await;
    let singly = join_all(jobs.map(|job| producer.push(job).into_future())).await;
    for outcomes in [pushed, singly] {
        for (number, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(()) => assert_ne!(number % 50, 7),
                Err(error) => {
                    assert_eq!(number % 50, 7, "{error:?}");
                    assert!(error.is_too_large(), "{error:?}");
                    assert_eq!(error.outcome(), Some(Outcome::Rejected), "{error:?}");
                    assert!(error.to_string().contains("100000"), "{error}");
                }
            }
        }
    }
    connection.close().await;
}

async fn a_stream_is_not_polled_at_the_cost_of_others(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (stream, dead) = (fixture.env.name("stream"), fixture.env.name("stream.dead"));
    let kind = [("x-queue-type", AMQPValue::LongString("stream".into()))];
    let other = Raw::open(&fixture.env.uri).await;
    if let Err(error) = other.declare_with(&stream, durable(), &kind).await {
        fixture.env.leave_out(&format!("no streams here: {error}"));
        return fixture.delete_queues(&[]).await;
    }
    other.declare_with(&dead, durable(), &kind).await.unwrap();
    other.close().await;
    // A job in hand on the connection that is not to be lost.
    let jobs = queue::<u32>("jobs", QueueKind::Classic);
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |job: Job<u32>| {
            let (gate, tell) = (gate.clone(), tell.clone());
            async move {
                tell.send(job.redelivered()).expect("the test listens");
                gate.acquire().await.expect("a gate").forget();
            }
        }
    };
    let pool = jobs
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    jobs.producer(&fixture.connection).push(&1).await.unwrap();
    assert!(!next(&mut told).await);
    let state = fixture.connection.state();
    let polled = WorkQueue::<String>::new("stream").passive();
    let getter = polled.getter(&fixture.connection);
    for _ in 0..2 {
        let error = getter.next().await.unwrap_err();
        assert_eq!(error.amqp_code(), Some(540), "{error:?}");
        assert!(error.to_string().contains("stream"), "{error}");
    }
    let error = polled.dead_letters(&fixture.connection).list(1).await;
    assert_eq!(error.unwrap_err().amqp_code(), Some(540));
    assert!(!state.has_changed().unwrap(), "{:?}", *state.borrow());
    gate.add_permits(1);
    pool.stop().await.unwrap();
    assert!(told.recv().await.is_none(), "it is not delivered again");
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_foreign_queue_is_polled(env: Env) {
    let fixture = JobFixture::open(env).await;
    for name in ["foreign", "foreign.dead"] {
        fixture.raw.declare(&fixture.env.name(name)).await;
    }
    let full = fixture.full("foreign");
    for text in ["one", "two", "three"] {
        fixture.raw.publish("", &full, text.as_bytes()).await;
    }
    let foreign = WorkQueue::text("foreign").passive();
    let getter = foreign.getter(&fixture.connection);
    let first = getter.next().await.unwrap().expect("a job");
    let second = getter.next().await.unwrap().expect("a job");
    assert_eq!(first.payload().unwrap(), "one");
    assert_eq!(second.ack().unwrap(), "two");
    first.ack().unwrap();
    let third = getter.next().await.unwrap().expect("a job");
    assert!(!third.redelivered());
    drop(third);
    fixture.raw.until_messages(&full, 1).await;
    let third = getter.next().await.unwrap().expect("a job");
    assert_eq!(third.ack().unwrap(), "three");
    assert!(getter.next().await.unwrap().is_none());
    fixture.delete_queues(&[]).await;
}

/// As RabbitMQ 4.3 does it, to a declaration that meets an exchange which went and came back.
async fn a_declaration_that_fails_in_the_broker_is_made_once_more(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let fail_next = async |name: &str| {
        let trap = proxy.stall_after(Way::Up, fixture.full(name).as_bytes());
        trap.sprung().await;
        let mut state = connection.state();
        proxy.inject(&frames::close(541, "INTERNAL_ERROR"));
        let seen = state.wait_for(|state| !state.is_connected()).await;
        seen.expect("a state");
        proxy.cut(Cut::Fin);
        proxy.resume();
    };
    let worked = async |name: &str, done: &mut (dyn Future<Output = ()> + Unpin)| {
        let ((), ()) = tokio::join!(fail_next(name), done);
    };
    let jobs = queue::<u32>("jobs", QueueKind::Classic);
    let pools = Mutex::new(Vec::new());
    let mut starting = Box::pin(async {
        let pool = jobs.worker(&connection).start(async |_: Job<u32>| {});
        let pool = pool.await.expect("a pool");
        pools.lock().unwrap().push(pool);
    });
    worked("jobs", &mut starting).await;
    let pushed = queue::<u32>("pushed", QueueKind::Classic).producer(&connection);
    let mut declaring = Box::pin(async {
        queue::<u32>("declared", QueueKind::Classic)
            .declare(&connection)
            .await
            .expect("a declared queue");
    });
    worked("declared", &mut declaring).await;
    pushed.push(&1).await.expect("a stored job");
    let topic = Topic::<u32>::new("news");
    let publisher = topic.publisher(&connection);
    let mut publishing = Box::pin(async {
        publisher.publish("a", &1).await.expect("a stored event");
    });
    worked("news", &mut publishing).await;
    let getter = queue::<u32>("got", QueueKind::Classic).getter(&connection);
    let mut getting = Box::pin(async {
        assert!(getter.next().await.expect("an answer").is_none());
    });
    worked("got", &mut getting).await;
    drop((starting, getting));
    drop(pools);
    connection.close().await;
    fixture.raw.delete_exchange(&fixture.full("news")).await;
    fixture
        .delete_queues(&["jobs", "pushed", "declared", "got"])
        .await;
}

/// The log of all tests of this process; each looks for its own names in it.
fn log() -> Log {
    Log::capture("lepus=warn")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_node() {
    let name = "limits_of_a_node";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        log();
        let node = Node::start().await;
        jobs_that_outlast_the_acknowledgement_timeout_are_not_buried(&node).await;
        jobs_that_became_too_large_do_not_block_their_pool(&node).await;
        set(&node, "max_message_size", "100000").await;
        too_large(node.uri()).await;
        a_stop_under_an_alarm_is_bounded_by_its_grace(&node).await;
    })
    .await;
}

/// Changes a setting while the node runs. RabbitMQ 4 reads some of them from the terms that it has put aside at its start.
async fn set(node: &Node, name: &str, value: &str) {
    let set = format!(
        "application:set_env(rabbit, {name}, {value}), persistent_term:put({name}, {value})."
    );
    node.ctl(&["eval", &set]).await;
}

async fn open(node: &Node) -> Connection {
    Connection::builder(node.uri())
        .backoff(Duration::from_millis(10), Duration::from_millis(100))
        .open()
        .await
        .expect("a connection")
}

async fn jobs_that_outlast_the_acknowledgement_timeout_are_not_buried(node: &Node) {
    set(node, "consumer_timeout", "3000").await;
    set(node, "channel_tick_interval", "100").await;
    let (connection, raw) = (open(node).await, Raw::open(node.uri()).await);
    let one = async |kind: QueueKind, name: &'static str| {
        let queue = queue::<u32>(name, kind).retry(policy(2, 10));
        let (tell, mut told) = mpsc::unbounded_channel();
        let enough = Arc::new(Semaphore::new(0));
        let handler = {
            let enough = enough.clone();
            move |job: Job<u32>| {
                let (tell, enough) = (tell.clone(), enough.clone());
                async move {
                    tell.send(("run", job.attempt())).expect("the test listens");
                    let cancelled = job.cancelled();
                    tokio::select! {
                        () = cancelled.wait() => {
                            assert!(cancelled.is_set());
                            tell.send(("cancelled", job.attempt())).expect("the test listens");
                            // It does not listen.
                            let _ = enough.acquire().await;
                        }
                        _ = enough.acquire() => {}
                    }
                }
            }
        };
        let pool = queue.worker(&connection).concurrency(8);
        let pool = pool.start(handler).await.expect("a pool");
        queue.producer(&connection).push(&1).await.expect("a job");
        for _ in 0..3 {
            assert_eq!(next(&mut told).await, ("run", 1), "{name}");
            assert_eq!(next(&mut told).await, ("cancelled", 1), "{name}");
        }
        assert_eq!(next(&mut told).await, ("run", 1), "{name}");
        enough.close();
        raw.until_messages(name, 0).await;
        pool.stop().await.expect("a drained pool");
        assert_eq!(raw.count(name).await.messages, 0, "{name}");
        let dead = queue.dead_letters(&connection).count().await;
        assert_eq!(dead.expect("a count"), 0, "{name}");
        let log = log();
        log.line_with(&["ERROR", "consumer_timeout", "timed out", name])
            .await;
        log.line_with(&["WARN", "nearly up", name]).await;
    };
    let [quorum, classic] = KINDS;
    tokio::join!(one(quorum, "slow.quorum"), one(classic, "slow.classic"));
    set(node, "consumer_timeout", "1800000").await;
    connection.close().await;
    raw.close().await;
}

async fn jobs_that_became_too_large_do_not_block_their_pool(node: &Node) {
    for (kind, name) in KINDS.into_iter().zip(["grown.quorum", "grown.classic"]) {
        set(node, "max_message_size", "134217728").await;
        let (connection, raw) = (open(node).await, Raw::open(node.uri()).await);
        let queue = queue::<Vec<u8>>(name, kind).retry(policy(3, 10));
        let gate = Arc::new(Semaphore::new(0));
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = {
            let gate = gate.clone();
            move |job: Job<Vec<u8>>| {
                let (gate, tell) = (gate.clone(), tell.clone());
                async move {
                    tell.send(job.payload().len()).expect("the test listens");
                    let _ = gate.acquire().await;
                    match job.payload().len() {
                        1 => Ok(()),
                        _ => Err("too much"),
                    }
                }
            }
        };
        let pool = queue.worker(&connection).concurrency(2).grace(GRACE);
        let pool = pool.start(handler).await.expect("a pool");
        let producer = queue.producer(&connection);
        producer.push(&vec![200; 200_000]).await.expect("a job");
        assert_eq!(next(&mut told).await, 200_000);
        set(node, "max_message_size", "100000").await;
        gate.close();
        let log = log();
        match kind {
            QueueKind::Quorum => {
                let dead = format!("{name}.dead");
                raw.until_messages(&dead, 1).await;
                log.line_with(&["ERROR", "is rejected", "100000", name])
                    .await;
                let letters = queue.dead_letters(&connection).list(1).await;
                assert_eq!(letters.expect("a letter")[0].reason(), "rejected");
            }
            _ => log.line_with(&["ERROR", "goes back", "100000", name]).await,
        }
        producer.push(&vec![1]).await.expect("a job");
        while next(&mut told).await != 1 {}
        let stopped = tokio::time::timeout(STOP, pool.stop()).await;
        stopped
            .expect("no wait for the grace")
            .expect("a drained pool");
        if kind == QueueKind::Classic {
            raw.until_messages(name, 1).await;
        }
        connection.close().await;
        raw.close().await;
    }
}

async fn a_stop_under_an_alarm_is_bounded_by_its_grace(node: &Node) {
    let (serving, calling) = (open(node).await, open(node).await);
    let subject = Arc::new(Subject::default());
    let server = serve_concurrently(&serving, &subject, 2);
    let server = server
        .grace(Duration::from_secs(1))
        .start()
        .await
        .expect("a server");
    let failing = queue::<u32>("alarmed", QueueKind::Classic);
    let (tell, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = gate.clone();
        move |_: Job<u32>| {
            let (gate, tell) = (gate.clone(), tell.clone());
            async move {
                tell.send(()).expect("the test listens");
                let _ = gate.acquire().await;
                Err::<(), _>("again")
            }
        }
    };
    let pool = failing.worker(&serving).grace(Duration::from_secs(1));
    let pool = pool.start(handler).await.expect("a pool");
    failing.producer(&calling).push(&1).await.expect("a job");
    next(&mut told).await;
    let probe = ProbeClient::new(&calling);
    let calls = [1, 2].map(|id| tokio::spawn(probe.hold(id).into_future()));
    subject.gate.entered(2).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.00000001"])
        .await;
    // One reply has the node block the connection that it is published on.
    subject.gate.open(1);
    let mut state = serving.state();
    let blocked = |state: &lepus::amqp::ConnectionState| {
        matches!(state, lepus::amqp::ConnectionState::Blocked { .. })
    };
    state.wait_for(blocked).await.expect("a state");
    gate.close();
    let stopping = async { tokio::join!(server.stop(), pool.stop()) };
    let stopped = tokio::time::timeout(STOP, stopping).await;
    let (server, pool) = stopped.expect("an end within the grace");
    server.expect("a stopped server");
    pool.expect("a stopped pool");
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    serving.close().await;
    calling.close().await;
}
