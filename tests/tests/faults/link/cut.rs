//! Links that are cut.

use super::{LONG, until_lost};
use lepus::{Code, Connection, Outcome, WorkQueue, amqp::ConnectionState};
use lepus_broker::Target;
use lepus_tests::eventually::within;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve, serve_concurrently};
use lepus_tests::proxy::{Cut, Proxy, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

conformance!(
    row_01_02_the_next_call_after_a_cut_is_answered_soon,
    row_03_a_reply_on_the_wire_is_lost_with_the_link,
    row_04_what_a_cut_server_had_runs_elsewhere_and_the_rest_once,
    row_05_what_runs_at_most_once_is_not_run_again,
    row_08_both_ends_cut_at_random_and_every_call_ends,
    row_09_a_connection_closed_in_order_is_a_lost_one,
    row_09_a_server_that_starts_meanwhile_starts_later,
    row_21_a_request_sent_again_in_vain_may_have_run,
);

async fn until_back(connection: &Connection) {
    let mut state = connection.state();
    tokio::time::timeout(LONG, state.wait_for(ConnectionState::is_connected))
        .await
        .expect("it comes back")
        .expect("the connection is there");
}

async fn row_01_02_the_next_call_after_a_cut_is_answered_soon(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let _server = serve(&serving, &subject).start().await.unwrap();
    let mut pauses = Vec::new();
    // Each with a connection of its own: one that is cut again and again backs off.
    for round in 0..10 {
        let calling = env.builder_at(proxy.uri()).open().await.unwrap();
        let probe = ProbeClient::new(&calling);
        probe.echo("before".into()).await.unwrap();
        proxy.cut(if round % 2 == 0 { Cut::Rst } else { Cut::Fin });
        let cut = Instant::now();
        // The first may still meet the old link.
        eventually("calls as before", || async {
            probe.echo("after".into()).timeout(LONG).await
        })
        .await;
        pauses.push(cut.elapsed());
    }
    pauses.sort();
    println!(
        "{}: from a cut to the next reply: median {:?}, longest {:?}",
        env.server.product,
        pauses[pauses.len() / 2],
        pauses.last().unwrap()
    );
}

async fn row_03_a_reply_on_the_wire_is_lost_with_the_link(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    proxy.stall(Way::Down);
    fixture.subject.gate.open_for_good();
    // Answered and acknowledged: the reply is between the broker and its caller.
    is_settled(&env, &fixture.queue).await;
    eventually("nothing at work", || async {
        fixture.serving.stats().running == 0
    })
    .await;
    assert_eq!(fixture.calling.stats().pending_calls, 1);
    proxy.cut(Cut::Rst);
    let error = call.await.unwrap_err();
    proxy.resume();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
    assert_eq!(fixture.calling.stats().pending_calls, 0);
    until_back(&fixture.calling).await;
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1]);
}

async fn row_04_what_a_cut_server_had_runs_elsewhere_and_the_rest_once(env: Env) {
    const IN_HAND: u16 = 5;
    let proxy = Proxy::start(&env.uri).await;
    let (cut_off, staying, calling) = (
        env.connect_at(proxy.uri()).await,
        env.connect().await,
        env.connect().await,
    );
    let (first, second) = (Arc::new(Subject::default()), Arc::new(Subject::default()));
    let queue = env.name("probe");
    let serving = serve_concurrently(&cut_off, &first, IN_HAND);
    let _first = serving.start().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let mut calls = JoinSet::new();
    for id in 0..20 {
        let probe = probe.clone();
        let call = probe.hold_idempotent(id).timeout(LONG);
        calls.spawn(async move { call.await.map(|got| (id, got)) });
    }
    first.gate.entered(IN_HAND.into()).await;
    let _second = serve_concurrently(&staying, &second, IN_HAND)
        .start()
        .await
        .unwrap();
    second.gate.entered(IN_HAND.into()).await;
    proxy.down().await;
    // Its handlers are told by being dropped: nobody could take their replies.
    first.gate.left(IN_HAND.into()).await;
    second.gate.open_for_good();
    while let Some(call) = calls.join_next().await {
        let (id, got) = call.unwrap().unwrap();
        assert_eq!(id, got, "each its own reply");
    }
    let mut runs = BTreeMap::<u32, usize>::new();
    for run in first.runs().iter().chain(&second.runs()) {
        *runs.entry(run.id).or_default() += 1;
    }
    assert_eq!(runs.len(), 20);
    let doubled: Vec<u32> = runs
        .into_iter()
        .filter_map(|(id, times)| (times > 1).then_some(id))
        .collect();
    let mut had = first.ids();
    had.sort_unstable();
    assert_eq!(doubled, had, "only what it had runs again");
    let again: Vec<_> = second
        .runs()
        .into_iter()
        .filter(|run| doubled.contains(&run.id))
        .collect();
    assert!(
        again.iter().all(|run| run.facts.redelivered),
        "a handler can tell: {again:?}"
    );
    assert_eq!(calling.stats().dropped_replies, 0);
    proxy.up().await;
    let raw = Raw::open(&env.uri).await;
    within("both consume", LONG, || async {
        raw.count(&queue).await.consumers == 2
    })
    .await;
    is_settled(&env, &queue).await;
}

/// Its acknowledgement was written, and never arrived.
async fn row_05_what_runs_at_most_once_is_not_run_again(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    fixture.is_well(&env).await;
    proxy.stall(Way::Up);
    let call = fixture
        .probe
        .hold_once(1)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    proxy.cut(Cut::Rst);
    until_lost(&fixture.serving).await;
    proxy.resume();
    let error = call.await.unwrap_err();
    let error = error.rpc().unwrap();
    assert_eq!(error.code(), Some(Code::Aborted), "{error}");
    assert!(error.may_have_executed(), "{error}");
    fixture.subject.gate.open_for_good();
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1]);
}

/// A broker that stops closes its connections with 320: whoever waits on them has lost them.
async fn row_09_a_connection_closed_in_order_is_a_lost_one(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("a RabbitMQ that others use does not stop; see faults::node");
    };
    let (serving, calling) = (env.connect().await, env.connect().await);
    let fixture = RpcFixture::over(&env, serving, calling.clone()).await;
    let queue = WorkQueue::<u32>::new("jobs").classic();
    let producer = queue.producer(&calling);
    producer.push(&0).await.unwrap();
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    broker.faults().withhold_confirms(Target::All);
    let mut pushes = JoinSet::new();
    for job in 1..=20 {
        let producer = producer.clone();
        pushes.spawn(async move { producer.push(&job).await });
    }
    eventually("they are there", || async {
        let ready = broker.queue(&env.name("jobs")).map(|queue| queue.ready);
        if ready == Some(21) {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        }
    })
    .await;
    assert!(broker.faults().close(Target::All, "stopping") > 0);
    let error = call.await.unwrap_err();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    while let Some(pushed) = pushes.join_next().await {
        let error = pushed.unwrap().unwrap_err();
        assert!(
            error.is_unconfirmed() && error.may_have_executed(),
            "{error:?}"
        );
    }
    fixture.subject.gate.open_for_good();
    until_back(&calling).await;
    producer.push(&21).await.unwrap();
    fixture.is_well(&env).await;
}

async fn row_09_a_server_that_starts_meanwhile_starts_later(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("a RabbitMQ that others use does not stop; see faults::node");
    };
    let (proxy, serving) = env.proxied().await;
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    // The declaration is written, and its answer is 320.
    let trap = proxy.stall_after(Way::Up, &queue.as_bytes()[..queue.len() - 1]);
    let starting = tokio::spawn(serve(&serving, &subject).start());
    trap.sprung().await;
    assert!(broker.faults().close(Target::All, "stopping") > 0);
    proxy.resume();
    let _server = starting.await.unwrap().unwrap();
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    assert_eq!(probe.echo("served".into()).await.unwrap(), "served");
}

async fn row_21_a_request_sent_again_in_vain_may_have_run(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let call = fixture.probe.hold_idempotent(1).timeout(LONG);
    let call = call.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    proxy.down().await;
    until_lost(&fixture.calling).await;
    drop(fixture.server);
    let raw = Raw::open(&env.uri).await;
    eventually("no consumer", || async {
        raw.count(&fixture.queue).await.consumers == 0
    })
    .await;
    raw.delete(&fixture.queue).await;
    proxy.up().await;
    let error = call.await.unwrap_err();
    let error = error.rpc().unwrap();
    assert!(error.is_unroutable(), "{error}");
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
}

async fn row_08_both_ends_cut_at_random_and_every_call_ends(env: Env) {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let proxy = Proxy::start(&env.uri).await;
    let (serving, calling) = (
        env.connect_at(proxy.uri()).await,
        env.connect_at(proxy.uri()).await,
    );
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let server = serve_concurrently(&serving, &subject, 10);
    let _server = server.start().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let ended = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (probe, ended) = (probe.clone(), Arc::clone(&ended));
        callers.spawn(async move {
            let (mut answered, mut lost) = (0, 0);
            for n in 0..300 {
                let text = format!("{caller}-{n}");
                match probe.echo(text.clone()).timeout(LONG).await {
                    Ok(reply) => {
                        assert_eq!(reply, text, "its own reply and no other");
                        answered += 1;
                    }
                    Err(error) => {
                        assert!(error.is_disconnected(), "{error}");
                        assert!(error.may_have_executed(), "{error}");
                        lost += 1;
                    }
                }
                ended.fetch_add(1, Ordering::SeqCst);
            }
            (answered, lost)
        });
    }
    // By calls and not by the clock: the same share of them on any machine.
    let mut dice = seed;
    let mut next = 0;
    for cut in 0..20 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        next += 20 + usize::try_from((dice >> 33) % 90).unwrap();
        within("more calls end", LONG, || async {
            let now = ended.load(Ordering::SeqCst);
            if now >= next { Ok(()) } else { Err(now) }
        })
        .await;
        proxy.cut(if cut % 2 == 0 { Cut::Rst } else { Cut::Fin });
    }
    let (mut answered, mut lost) = (0, 0);
    while let Some(outcomes) = callers.join_next().await {
        let outcomes = outcomes.unwrap();
        answered += outcomes.0;
        lost += outcomes.1;
    }
    println!("{answered} answered, {lost} lost");
    assert_eq!(answered + lost, 8 * 300);
    assert_eq!(calling.stats().pending_calls, 0);
    eventually("calls as before", || async {
        probe.echo("last".into()).timeout(LONG).await
    })
    .await;
    is_settled(&env, &queue).await;
    let raw = Raw::open(&env.uri).await;
    eventually("one consumer, no orphans", || async {
        raw.count(&queue).await.consumers == 1
    })
    .await;
}
