//! What a network does to calls: cuts, stalls, brokers that are away, and many clients that come
//! back at once. The numbers in the names are rows of the table in docs/reliability.md.

use lepus::{Code, Connection, ConnectionState, Outcome, WorkQueue};
use lepus_broker::Target;
use lepus_tests::env::{On, run_within};
use lepus_tests::eventually::within;
use lepus_tests::probe::{ProbeClient, Rig, Subject, is_settled, serve};
use lepus_tests::proxy::{Cut, Mode, Proxy, Slow, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

conformance!(cut:
    row_01_02_the_next_call_after_a_cut_is_answered_soon,
    row_03_a_reply_on_the_wire_is_lost_with_the_link,
    row_04_what_a_cut_server_had_runs_elsewhere_and_the_rest_once,
    row_05_what_runs_at_most_once_is_not_run_again,
    row_08_both_ends_cut_at_random_and_every_call_ends,
    row_09_a_connection_closed_in_order_is_a_lost_one,
    row_09_a_server_that_starts_meanwhile_starts_later,
    row_21_a_request_sent_again_in_vain_may_have_run,
);

conformance!(away:
    row_11_ten_seconds_away,
    row_11_it_never_gives_up,
    row_12_a_broker_that_closes_what_it_accepts,
    row_12_a_broker_that_is_silent,
    row_62_many_clients_do_not_come_back_at_once,
);

/// As long as in the table; ten seconds are what every run has.
mod five_minutes {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(400);

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "five minutes: cargo test -p lepus-tests --test faults five_minutes -- --ignored"]
    async fn embedded() {
        let name = "five_minutes::embedded";
        run_within(LIMIT, On::Embedded, name, row_11_five_minutes_away).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "five minutes: cargo test -p lepus-tests --test faults five_minutes -- --ignored"]
    async fn rabbitmq() {
        let name = "five_minutes::rabbitmq";
        run_within(LIMIT, On::RabbitMq, name, row_11_five_minutes_away).await;
    }
}

conformance!(stalled:
    row_13_an_idle_half_open_link_is_found,
    row_14_a_half_open_link_with_full_buffers_is_found,
    row_15_a_link_that_delivers_nothing_is_found,
    row_15_a_link_that_takes_nothing_is_found,
    row_16_a_slow_link_is_only_slow,
    row_16_a_trickle_is_no_silence,
);

const SOON: Duration = Duration::from_millis(10);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(40);
const SECOND: Duration = Duration::from_secs(1);
/// A dead link is found after two of these.
const HEARTBEAT: Duration = SECOND;

async fn through(env: &Env, proxy: &Proxy) -> Connection {
    let opened = env.builder_at(proxy.uri()).backoff(SOON, SHORT).open();
    opened.await.expect("a connection by the proxy")
}

/// Served over a link of its own, called through the proxy.
async fn called_through(env: &Env, proxy: &Proxy) -> Rig {
    Rig::over(env, env.connect().await, through(env, proxy).await).await
}

async fn until_lost(connection: &Connection) {
    let mut state = connection.state();
    let lost = state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. }));
    tokio::time::timeout(LONG, lost)
        .await
        .expect("the loss is seen")
        .expect("the connection is there");
}

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
    let proxy = Proxy::start(&env.uri).await;
    let rig = called_through(&env, &proxy).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    proxy.stall(Way::Down);
    rig.subject.gate.open_for_good();
    // Answered and acknowledged: the reply is between the broker and its caller.
    is_settled(&env, &rig.queue).await;
    eventually("nothing at work", || async {
        rig.serving.stats().running == 0
    })
    .await;
    assert_eq!(rig.calling.stats().pending_calls, 1);
    proxy.cut(Cut::Rst);
    let error = call.await.unwrap_err();
    proxy.resume();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::SentNoReply));
    assert_eq!(rig.calling.stats().pending_calls, 0);
    until_back(&rig.calling).await;
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [1]);
}

async fn row_04_what_a_cut_server_had_runs_elsewhere_and_the_rest_once(env: Env) {
    const IN_HAND: u16 = 5;
    let proxy = Proxy::start(&env.uri).await;
    let (cut_off, staying, calling) = (
        through(&env, &proxy).await,
        env.connect().await,
        env.connect().await,
    );
    let (first, second) = (Arc::new(Subject::default()), Arc::new(Subject::default()));
    let queue = env.name("probe");
    let serving = serve(&cut_off, &first).concurrency(IN_HAND);
    let _first = serving.start().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let mut calls = JoinSet::new();
    for id in 0..20 {
        let probe = probe.clone();
        calls.spawn(async move { probe.hold(id).timeout(LONG).await.map(|got| (id, got)) });
    }
    first.gate.entered(IN_HAND.into()).await;
    let _second = serve(&staying, &second)
        .concurrency(IN_HAND)
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
    let proxy = Proxy::start(&env.uri).await;
    let rig = Rig::over(&env, through(&env, &proxy).await, env.connect().await).await;
    rig.is_well(&env).await;
    proxy.stall(Way::Up);
    let call = rig.probe.hold_once(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    proxy.cut(Cut::Rst);
    until_lost(&rig.serving).await;
    proxy.resume();
    let error = call.await.unwrap_err();
    let error = error.rpc().unwrap();
    assert_eq!(error.code(), Some(Code::Aborted), "{error}");
    assert!(error.may_have_executed(), "{error}");
    rig.subject.gate.open_for_good();
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [1]);
}

/// A broker that stops closes its connections with 320: whoever waits on them has lost them.
async fn row_09_a_connection_closed_in_order_is_a_lost_one(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("a RabbitMQ that others use does not stop; see faults::node");
    };
    let (serving, calling) = (env.connect().await, env.connect().await);
    let rig = Rig::over(&env, serving, calling.clone()).await;
    let queue = WorkQueue::<u32>::new("jobs").classic();
    let producer = queue.producer(&calling);
    producer.push(&0).await.unwrap();
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
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
        assert!(error.is_unconfirmed(), "{error:?}");
        assert!(
            error.is_disconnected() && error.may_have_executed(),
            "{error:?}"
        );
    }
    rig.subject.gate.open_for_good();
    until_back(&calling).await;
    producer.push(&21).await.unwrap();
    rig.is_well(&env).await;
}

async fn row_09_a_server_that_starts_meanwhile_starts_later(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("a RabbitMQ that others use does not stop; see faults::node");
    };
    let proxy = Proxy::start(&env.uri).await;
    let serving = through(&env, &proxy).await;
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
    let proxy = Proxy::start(&env.uri).await;
    let rig = called_through(&env, &proxy).await;
    let call = rig.probe.hold_idempotent(1).timeout(LONG);
    let call = call.send().await.unwrap();
    rig.subject.gate.entered(1).await;
    proxy.down().await;
    until_lost(&rig.calling).await;
    drop(rig.server);
    let raw = Raw::open(&env.uri).await;
    eventually("no consumer", || async {
        raw.count(&rig.queue).await.consumers == 0
    })
    .await;
    raw.delete(&rig.queue).await;
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
    let (serving, calling) = (through(&env, &proxy).await, through(&env, &proxy).await);
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let server = serve(&serving, &subject).concurrency(10);
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

async fn row_11_ten_seconds_away(env: Env) {
    away_for(env, 10 * SECOND).await;
}

async fn row_11_five_minutes_away(env: Env) {
    away_for(env, 300 * SECOND).await;
}

async fn away_for(env: Env, time: Duration) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env.builder_at(proxy.uri()).open().await.unwrap();
    let rig = Rig::over(&env, env.connect().await, calling).await;
    rig.probe.echo("before".into()).await.unwrap();
    let began = Instant::now();
    proxy.down().await;
    until_lost(&rig.calling).await;
    let waiting = tokio::spawn({
        let probe = rig.probe.clone();
        async move { probe.echo("patient".into()).timeout(time + LONG).await }
    });
    while began.elapsed() < time {
        let error = rig.probe.echo("hasty".into()).timeout(SECOND).await;
        let error = error.unwrap_err();
        assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
        assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::NotSent));
    }
    assert!(!waiting.is_finished());
    let up = Instant::now();
    proxy.up().await;
    assert_eq!(waiting.await.unwrap().unwrap(), "patient");
    println!(
        "{}: after {time:?} away, back after {:?}",
        env.server.product,
        up.elapsed()
    );
    rig.is_well(&env).await;
}

async fn row_11_it_never_gives_up(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = env.builder_at(proxy.uri());
    let calling = builder.backoff(Duration::from_millis(1), SOON).open().await;
    let rig = Rig::over(&env, env.connect().await, calling.unwrap()).await;
    rig.probe.echo("before".into()).await.unwrap();
    let before = proxy.accepted();
    proxy.set(Mode::AcceptThenClose).await;
    proxy.cut(Cut::Rst);
    within("hundreds of attempts", LONG, || async {
        let attempts = proxy.accepted() - before;
        if attempts >= 300 {
            Ok(())
        } else {
            Err(attempts)
        }
    })
    .await;
    proxy.up().await;
    assert_eq!(
        rig.probe.echo("after".into()).timeout(LONG).await.unwrap(),
        "after"
    );
}

async fn row_12_a_broker_that_closes_what_it_accepts(env: Env) {
    comes_back_from(env, Mode::AcceptThenClose).await;
}

async fn row_12_a_broker_that_is_silent(env: Env) {
    comes_back_from(env, Mode::AcceptSilent).await;
}

async fn comes_back_from(env: Env, mode: Mode) {
    let proxy = Proxy::start(&env.uri).await;
    let open = || {
        let builder = env.builder_at(proxy.uri()).connect_timeout(SHORT);
        builder.backoff(SOON, SHORT).open()
    };
    // A handshake within the short limit may take some attempts on a busy machine.
    let serving = eventually("a connection", open).await;
    let calling = eventually("a connection", open).await;
    let rig = Rig::over(&env, serving, calling).await;
    rig.probe.echo("before".into()).await.unwrap();
    let before = proxy.accepted();
    proxy.set(mode).await;
    proxy.cut(Cut::Rst);
    until_lost(&rig.calling).await;
    within("attempts", LONG, || async {
        let attempts = proxy.accepted() - before;
        if attempts >= 10 {
            Ok(())
        } else {
            Err(attempts)
        }
    })
    .await;
    // Two connections with an attempt each; what has failed is closed.
    eventually("no socket of attempts that failed", || async {
        let open = proxy.open();
        if open <= 2 { Ok(()) } else { Err(open) }
    })
    .await;
    let up = Instant::now();
    proxy.up().await;
    within("calls as before", LONG, || async {
        rig.probe.echo("after".into()).timeout(LONG).await
    })
    .await;
    println!("{mode:?}: back after {:?}", up.elapsed());
    eventually("two sessions, one link each", || async {
        let open = proxy.open();
        if open == 2 { Ok(()) } else { Err(open) }
    })
    .await;
    rig.is_well(&env).await;
}

async fn row_62_many_clients_do_not_come_back_at_once(env: Env) {
    const CLIENTS: u64 = 50;
    let proxy = Proxy::start(&env.uri).await;
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let server = serve(&serving, &subject).concurrency(50);
    let _server = server.start().await.unwrap();
    let (first, longest) = (SECOND, 2 * SECOND);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let builder = env.builder_at(proxy.uri()).backoff(first, longest);
        let connection = builder.open().await.unwrap();
        let probe = ProbeClient::new(&connection);
        probe.echo("before".into()).timeout(LONG).await.unwrap();
        clients.push((connection, probe));
    }
    assert_eq!(proxy.accepted(), CLIENTS);
    proxy.down().await;
    for (connection, _) in &clients {
        let mut state = connection.state();
        // Refused at least once, so that each is in its backoff.
        let refused = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.is_connect());
        state.wait_for(refused).await.unwrap();
    }
    let up = Instant::now();
    proxy.up().await;
    let mut times = Vec::new();
    within("all are back", LONG, || {
        let come = usize::try_from(proxy.accepted() - CLIENTS).unwrap();
        while times.len() < come {
            times.push(up.elapsed());
        }
        std::future::ready(if come >= 50 { Ok(()) } else { Err(come) })
    })
    .await;
    let (tenth, ninetieth) = (times[5], times[45]);
    println!(
        "{}: {CLIENTS} clients back: a tenth after {tenth:?}, nine tenths after {ninetieth:?}, all after {:?}",
        env.server.product,
        times.last().unwrap()
    );
    // Half of each pause is random: of 1 to 2 s that is half a second and more.
    assert!(ninetieth - tenth > SHORT, "{times:?}");
    for (_, probe) in &clients {
        assert_eq!(
            probe.echo("after".into()).timeout(LONG).await.unwrap(),
            "after"
        );
    }
}

/// With the shortest heartbeat, and an attempt that does not wait long on a link that is dead.
async fn beating(env: &Env, proxy: &Proxy) -> Rig {
    let calling = env
        .builder_at(proxy.uri())
        .heartbeat(HEARTBEAT)
        .connect_timeout(2 * SECOND)
        .backoff(SOON, SHORT)
        .open();
    Rig::over(env, env.connect().await, calling.await.unwrap()).await
}

/// The link is found dead, the calls on it end then, and it comes back when it can.
async fn is_found(
    env: &Env,
    proxy: &Proxy,
    rig: &Rig,
    calls: Vec<lepus::PendingReply<u32>>,
    stalled: Instant,
) {
    until_lost(&rig.calling).await;
    let found = stalled.elapsed();
    println!("{}: found after {found:?}", env.server.product);
    for call in calls {
        let error = call.await.unwrap_err();
        assert!(
            error.is_disconnected() && error.may_have_executed(),
            "{error}"
        );
    }
    none_is_pending(&rig.calling).await;
    // One that was lost is still at work, on a server that does one at a time.
    rig.subject.gate.open_for_good();
    let up = Instant::now();
    proxy.resume();
    within("calls as before", LONG, || async {
        rig.probe.echo("after".into()).timeout(LONG).await
    })
    .await;
    println!("{}: back after {:?}", env.server.product, up.elapsed());
    rig.is_well(env).await;
}

/// Each of the calls that are lost together is told by itself.
async fn none_is_pending(connection: &Connection) {
    eventually("no call is pending", || async {
        let pending = connection.stats().pending_calls;
        if pending == 0 { Ok(()) } else { Err(pending) }
    })
    .await;
}

async fn row_13_an_idle_half_open_link_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = beating(&env, &proxy).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let stalled = Instant::now();
    proxy.stall_both();
    is_found(&env, &proxy, &rig, vec![call], stalled).await;
}

async fn row_14_a_half_open_link_with_full_buffers_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = beating(&env, &proxy).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let stalled = Instant::now();
    proxy.stall_both();
    // More than the kernel takes for both sockets: the rest fills the write buffer, or waits for room
    // in it.
    let mut stuck = JoinSet::new();
    for _ in 0..40 {
        let probe = rig.probe.clone();
        stuck.spawn(async move { probe.echo("x".repeat(1 << 20)).timeout(LONG).await });
    }
    eventually("calls under way", || async {
        rig.calling.stats().pending_calls > 3
    })
    .await;
    is_found(&env, &proxy, &rig, vec![call], stalled).await;
    while let Some(ended) = stuck.join_next().await {
        match ended.unwrap() {
            // One that had not been written was sent by the next connection.
            Ok(reply) => assert_eq!(reply.len(), 1 << 20),
            Err(error) => assert!(error.is_disconnected(), "{error}"),
        }
    }
    assert_eq!(rig.calling.stats().pending_calls, 0);
}

async fn row_15_a_link_that_delivers_nothing_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = beating(&env, &proxy).await;
    rig.probe.echo("before".into()).await.unwrap();
    let stalled = Instant::now();
    proxy.stall(Way::Down);
    let hasty = rig.probe.echo("hasty".into()).timeout(SHORT).await;
    let error = hasty.unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    is_found(&env, &proxy, &rig, vec![call], stalled).await;
}

async fn row_15_a_link_that_takes_nothing_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = beating(&env, &proxy).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let stalled = Instant::now();
    // The broker misses our heartbeats, and hangs up.
    proxy.stall(Way::Up);
    is_found(&env, &proxy, &rig, vec![call], stalled).await;
}

async fn row_16_a_slow_link_is_only_slow(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = called_through(&env, &proxy).await;
    rig.probe.echo("before".into()).await.unwrap();
    proxy.slow(Some(Slow::latency(Duration::from_millis(50))));
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for n in 0..50 {
        let probe = rig.probe.clone();
        calls.spawn(async move {
            let text = n.to_string();
            let reply = probe.echo(text.clone()).timeout(LONG).await;
            reply.is_ok_and(|reply| reply == text)
        });
    }
    while let Some(is_mine) = calls.join_next().await {
        assert!(is_mine.unwrap());
    }
    assert!(began.elapsed() > 2 * Duration::from_millis(50));
    assert_eq!(proxy.accepted(), 1, "the same link all the time");
    proxy.slow(None);
    rig.is_well(&env).await;
}

async fn row_16_a_trickle_is_no_silence(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let rig = beating(&env, &proxy).await;
    rig.probe.echo("before".into()).await.unwrap();
    let links = proxy.accepted();
    // 2 kB there and back: each takes longer than two heartbeats.
    proxy.slow(Some(Slow {
        delay: Duration::from_millis(200),
        piece: 100,
    }));
    let began = Instant::now();
    let text = "x".repeat(2_000);
    let reply = rig.probe.echo(text.clone()).timeout(LONG).await;
    assert_eq!(reply.unwrap(), text);
    let took = began.elapsed();
    assert!(took > 4 * HEARTBEAT, "{took:?}");
    assert_eq!(proxy.accepted(), links, "the same link all the time");
    proxy.slow(None);
    rig.is_well(&env).await;
}
