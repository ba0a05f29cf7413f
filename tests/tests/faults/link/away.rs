//! Brokers that are away, and many clients that come back at once.

use super::{LONG, SECOND, SHORT, SOON, until_lost};
use lepus::{Outcome, amqp::ConnectionState};
use lepus_tests::env::{On, run_within};
use lepus_tests::eventually::within;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, serve_concurrently};
use lepus_tests::proxy::{Cut, Mode, Proxy};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::{Duration, Instant};

conformance!(
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

async fn row_11_ten_seconds_away(env: Env) {
    away_for(env, 10 * SECOND).await;
}

async fn row_11_five_minutes_away(env: Env) {
    away_for(env, 300 * SECOND).await;
}

async fn away_for(env: Env, time: Duration) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    fixture.probe.echo("before".into()).await.unwrap();
    let began = Instant::now();
    proxy.down().await;
    until_lost(&fixture.calling).await;
    let waiting = tokio::spawn({
        let probe = fixture.probe.clone();
        async move { probe.echo("patient".into()).timeout(time + LONG).await }
    });
    // The length of the fault, which the row of the table names.
    while began.elapsed() < time {
        let error = fixture.probe.echo("hasty".into()).timeout(SECOND).await;
        let error = error.unwrap_err();
        assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
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
    fixture.is_well(&env).await;
}

async fn row_11_it_never_gives_up(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = env.builder_at(proxy.uri());
    let calling = builder.backoff(Duration::from_millis(1), SOON).open().await;
    let fixture = RpcFixture::over(&env, env.connect().await, calling.unwrap()).await;
    fixture.probe.echo("before".into()).await.unwrap();
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
        fixture
            .probe
            .echo("after".into())
            .timeout(LONG)
            .await
            .unwrap(),
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
    let fixture = RpcFixture::over(&env, serving, calling).await;
    fixture.probe.echo("before".into()).await.unwrap();
    let before = proxy.accepted();
    proxy.set(mode).await;
    proxy.cut(Cut::Rst);
    until_lost(&fixture.calling).await;
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
        fixture.probe.echo("after".into()).timeout(LONG).await
    })
    .await;
    println!("{mode:?}: back after {:?}", up.elapsed());
    eventually("two sessions, one link each", || async {
        let open = proxy.open();
        if open == 2 { Ok(()) } else { Err(open) }
    })
    .await;
    fixture.is_well(&env).await;
}

async fn row_62_many_clients_do_not_come_back_at_once(env: Env) {
    const CLIENTS: u64 = 50;
    let proxy = Proxy::start(&env.uri).await;
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let server = serve_concurrently(&serving, &subject, 50);
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
