//! Links that are half open, stalled or slow.

use super::{LONG, SECOND, SHORT, SOON, until_lost};
use lepus::Connection;
use lepus_tests::eventually::within;
use lepus_tests::probe::RpcFixture;
use lepus_tests::proxy::{Proxy, Slow, Way};
use lepus_tests::{Env, conformance, eventually};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

conformance!(
    row_13_an_idle_half_open_link_is_found,
    row_14_a_half_open_link_with_full_buffers_is_found,
    row_15_a_link_that_delivers_nothing_is_found,
    row_15_a_link_that_takes_nothing_is_found,
    row_16_a_slow_link_is_only_slow,
    row_16_a_trickle_is_no_silence,
);

/// A dead link is found after two of these.
const HEARTBEAT: Duration = SECOND;

/// With the shortest heartbeat, and an attempt that does not wait long on a link that is dead.
async fn beating(env: &Env, proxy: &Proxy) -> RpcFixture {
    let calling = env
        .builder_at(proxy.uri())
        .heartbeat(HEARTBEAT)
        .connect_timeout(2 * SECOND)
        .backoff(SOON, SHORT)
        .open();
    RpcFixture::over(env, env.connect().await, calling.await.unwrap()).await
}

/// The link is found dead, the calls on it end then, and it comes back when it can.
async fn is_found(
    env: &Env,
    proxy: &Proxy,
    fixture: &RpcFixture,
    calls: Vec<lepus::rpc::PendingReply<u32>>,
    stalled: Instant,
) {
    until_lost(&fixture.calling).await;
    let found = stalled.elapsed();
    println!("{}: found after {found:?}", env.server.product);
    for call in calls {
        let error = call.await.unwrap_err();
        assert!(
            error.is_disconnected() && error.may_have_executed(),
            "{error}"
        );
    }
    none_is_pending(&fixture.calling).await;
    // One that was lost is still at work, on a server that does one at a time.
    fixture.subject.gate.open_for_good();
    let up = Instant::now();
    proxy.resume();
    within("calls as before", LONG, || async {
        fixture.probe.echo("after".into()).timeout(LONG).await
    })
    .await;
    println!("{}: back after {:?}", env.server.product, up.elapsed());
    fixture.is_well(env).await;
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
    let fixture = beating(&env, &proxy).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let stalled = Instant::now();
    proxy.stall_both();
    is_found(&env, &proxy, &fixture, vec![call], stalled).await;
}

async fn row_14_a_half_open_link_with_full_buffers_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let fixture = beating(&env, &proxy).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let stalled = Instant::now();
    proxy.stall_both();
    // More than the kernel takes for both sockets: the rest fills the write buffer, or waits for room
    // in it.
    let mut stuck = JoinSet::new();
    for _ in 0..40 {
        let probe = fixture.probe.clone();
        stuck.spawn(async move { probe.echo("x".repeat(1 << 20)).timeout(LONG).await });
    }
    eventually("calls under way", || async {
        fixture.calling.stats().pending_calls > 3
    })
    .await;
    is_found(&env, &proxy, &fixture, vec![call], stalled).await;
    while let Some(ended) = stuck.join_next().await {
        match ended.unwrap() {
            // One that had not been written was sent by the next connection.
            Ok(reply) => assert_eq!(reply.len(), 1 << 20),
            Err(error) => assert!(error.is_disconnected(), "{error}"),
        }
    }
    assert_eq!(fixture.calling.stats().pending_calls, 0);
}

async fn row_15_a_link_that_delivers_nothing_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let fixture = beating(&env, &proxy).await;
    fixture.probe.echo("before".into()).await.unwrap();
    let stalled = Instant::now();
    proxy.stall(Way::Down);
    let hasty = fixture.probe.echo("hasty".into()).timeout(SHORT).await;
    let error = hasty.unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    is_found(&env, &proxy, &fixture, vec![call], stalled).await;
}

async fn row_15_a_link_that_takes_nothing_is_found(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let fixture = beating(&env, &proxy).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let stalled = Instant::now();
    // The broker misses our heartbeats, and hangs up.
    proxy.stall(Way::Up);
    is_found(&env, &proxy, &fixture, vec![call], stalled).await;
}

async fn row_16_a_slow_link_is_only_slow(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    fixture.probe.echo("before".into()).await.unwrap();
    proxy.slow(Some(Slow::latency(Duration::from_millis(50))));
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for n in 0..50 {
        let probe = fixture.probe.clone();
        calls.spawn(async move {
            let text = n.to_string();
            let reply = probe.echo(text.clone()).timeout(LONG).await;
            reply.is_ok_and(|reply| reply == text)
        });
    }
    while let Some(is_mine) = calls.join_next().await {
        assert!(is_mine.unwrap());
    }
    // The link was slow: never less than the delay both ways, and a slow machine only adds to it.
    assert!(began.elapsed() > 2 * Duration::from_millis(50));
    assert_eq!(proxy.accepted(), 1, "the same link all the time");
    proxy.slow(None);
    fixture.is_well(&env).await;
}

async fn row_16_a_trickle_is_no_silence(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let fixture = beating(&env, &proxy).await;
    fixture.probe.echo("before".into()).await.unwrap();
    let links = proxy.accepted();
    // 2 kB there and back: each takes longer than two heartbeats.
    proxy.slow(Some(Slow {
        delay: Duration::from_millis(200),
        piece: 100,
    }));
    let began = Instant::now();
    let text = "x".repeat(2_000);
    let reply = fixture.probe.echo(text.clone()).timeout(LONG).await;
    assert_eq!(reply.unwrap(), text);
    // The link was slow enough for the test to mean something; a slow machine only adds to it.
    let took = began.elapsed();
    assert!(took > 4 * HEARTBEAT, "{took:?}");
    assert_eq!(proxy.accepted(), links, "the same link all the time");
    proxy.slow(None);
    fixture.is_well(&env).await;
}
