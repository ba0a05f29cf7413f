//! The concurrency of a server, and its stop.

use super::{LONG, SHORT};
use futures_util::future::join_all;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve, serve_concurrently};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Instant;

conformance!(
    so_many_handlers_run_at_once,
    a_busy_server_gets_no_further_request,
    a_request_at_most_once_is_acknowledged_before_it_runs,
    a_drain_finishes_what_is_in_hand,
    what_outlasts_the_grace_goes_back,
    a_dropped_server_gives_back_what_it_has,
    a_shutdown_before_the_start_ends_it,
);

async fn so_many_handlers_run_at_once(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let _server = serve_concurrently(&serving, &subject, 3)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let calls = join_all((0..5).map(|id| probe.hold(id).send())).await;
    subject.gate.entered(3).await;
    // The broker keeps the others: that is the prefetch.
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 2).await;
    assert_eq!((subject.gate.count(), serving.stats().running), (3, 3));
    subject.gate.open(1);
    subject.gate.entered(4).await;
    subject.gate.open(1);
    subject.gate.entered(5).await;
    eventually("three at once", || async { serving.stats().running == 3 }).await;
    subject.gate.open_for_good();
    for call in calls {
        call.unwrap().await.unwrap();
    }
    eventually("nobody at work", || async { serving.stats().running == 0 }).await;
}

async fn a_busy_server_gets_no_further_request(env: Env) {
    let calling = env.connect().await;
    let connections = [env.connect().await, env.connect().await];
    let subjects = [Arc::new(Subject::default()), Arc::new(Subject::default())];
    let queue = env.name("probe");
    let mut servers = Vec::new();
    for (connection, subject) in connections.iter().zip(&subjects) {
        servers.push(serve(connection, subject).start().await.unwrap());
    }
    let probe = ProbeClient::new(&calling);
    let long = probe.hold(0).send().await.unwrap();
    eventually("one at work", || async {
        subjects[0].gate.count() + subjects[1].gate.count() == 1
    })
    .await;
    let [busy, idle] = if subjects[0].gate.count() == 1 {
        [&subjects[0], &subjects[1]]
    } else {
        [&subjects[1], &subjects[0]]
    };
    // All the others go to the one that is free, though it would be the busy one's turn.
    idle.gate.open_for_good();
    for id in 1..=6 {
        assert_eq!(probe.hold(id).await.unwrap(), id);
    }
    assert_eq!(busy.ids(), [0]);
    assert_eq!(idle.ids(), [1, 2, 3, 4, 5, 6]);
    busy.gate.open_for_good();
    assert_eq!(long.await.unwrap(), 0);
    is_settled(&env, &queue).await;
}

async fn a_request_at_most_once_is_acknowledged_before_it_runs(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let lost = fixture
        .probe
        .hold_once(1)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    is_settled(&env, &fixture.queue).await;
    // It holds its place nevertheless.
    let next = fixture
        .probe
        .hold_once(2)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.open(1);
    assert_eq!(lost.await.unwrap(), 1);
    fixture.subject.gate.entered(2).await;

    // A worker that goes away now has lost it, not doubled it.
    drop(fixture.server);
    fixture.subject.gate.left(1).await;
    let server = serve(&fixture.serving, &fixture.subject)
        .start()
        .await
        .unwrap();
    assert_eq!(fixture.probe.echo("next".into()).await.unwrap(), "next");
    assert_eq!(fixture.subject.ids(), [1, 2]);
    drop(next);
    server.stop().await.unwrap();
}

async fn a_drain_finishes_what_is_in_hand(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let in_hand = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let queued = fixture.probe.hold(2).timeout(LONG).send().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&fixture.queue, 1).await;

    let draining = tokio::spawn(fixture.server.stop());
    eventually("no consumer", || async {
        raw.count(&fixture.queue).await.consumers == 0
    })
    .await;
    assert!(!draining.is_finished(), "it waits for its handler");
    fixture.subject.gate.open(1);
    assert_eq!(in_hand.await.unwrap(), 1);
    draining.await.unwrap().unwrap();
    raw.until_messages(&fixture.queue, 1).await;
    assert_eq!(fixture.subject.ids(), [1]);

    let _next = serve(&fixture.serving, &fixture.subject)
        .start()
        .await
        .unwrap();
    fixture.subject.gate.open(1);
    assert_eq!(queued.await.unwrap(), 2);
    assert!(
        !fixture.subject.runs()[1].facts.redelivered,
        "nobody had it before"
    );
    is_settled(&env, &fixture.queue).await;
}

async fn what_outlasts_the_grace_goes_back(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve(&serving, &subject)
        .grace(SHORT)
        .start()
        .await
        .unwrap();
    let call = ProbeClient::new(&calling)
        .hold_idempotent(1)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    subject.gate.entered(1).await;
    let began = Instant::now();
    server.stop().await.unwrap();
    // Not before the end of the grace period, on a slow machine as well.
    assert!(began.elapsed() >= SHORT);
    assert_eq!(subject.gate.dropped(), 1);
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 1).await;

    let _next = serve(&serving, &subject).start().await.unwrap();
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    let redelivered = subject
        .runs()
        .iter()
        .map(|run| run.facts.redelivered)
        .collect::<Vec<_>>();
    assert_eq!(redelivered, [false, true]);
}

async fn a_dropped_server_gives_back_what_it_has(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let call = fixture.probe.hold_idempotent(1).timeout(LONG);
    let call = call.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(fixture.server);
    fixture.subject.gate.left(1).await;
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&fixture.queue, 1).await;
    assert_eq!(raw.count(&fixture.queue).await.consumers, 0);

    let _next = serve(&fixture.serving, &fixture.subject)
        .start()
        .await
        .unwrap();
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
}

async fn a_shutdown_before_the_start_ends_it(env: Env) {
    let connection = env.connect().await;
    let subject = Arc::new(Subject::default());
    serve(&connection, &subject).run(async {}).await.unwrap();
    // And one that comes later drains.
    let shutdown = Arc::new(tokio::sync::Notify::new());
    let run = serve(&connection, &subject).run({
        let shutdown = Arc::clone(&shutdown);
        async move { shutdown.notified().await }
    });
    let run = tokio::spawn(run);
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    eventually("a consumer", || async {
        raw.try_count(&queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    shutdown.notify_one();
    run.await.unwrap().unwrap();
    assert_eq!(raw.count(&queue).await.consumers, 0);
}
