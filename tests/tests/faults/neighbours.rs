//! Faults beside a call that must not reach it: channels that die, replies that nobody
//! reads, contracts of two versions, names that do not resolve. The numbers in the names are rows
//! of the table in docs/reliability.md.

use lepus::{Code, Fanout, Server, events::EventExchange};
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, serve_concurrently};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

conformance!(
    row_48_a_channel_that_dies_takes_nobody_along,
    row_52_a_name_that_does_not_resolve,
    row_58_replies_that_nobody_reads_hold_nobody_up,
    row_60_old_and_new_contracts_meet,
);

const LONG: Duration = Duration::from_secs(40);

async fn row_48_a_channel_that_dies_takes_nobody_along(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let news: Fanout<String> = EventExchange::new("news");
    let publisher = news.publisher(&fixture.calling);
    publisher.publish("first").await.unwrap();
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let links = proxy.accepted();
    let raw = Raw::open(&env.uri).await;
    for _ in 0..3 {
        raw.delete_exchange(&env.name("news")).await;
        // 404 closes the channel; the message is published again where the exchange is back.
        eventually("an event is taken", || async {
            publisher.publish("next").await
        })
        .await;
    }
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1, "on another channel");
    assert_eq!(proxy.accepted(), links, "the same link all the time");
    assert!(fixture.calling.state().borrow().is_connected());
    fixture.is_well(&env).await;
    raw.delete_exchange(&env.name("news")).await;
}

async fn row_52_a_name_that_does_not_resolve(env: Env) {
    let nowhere = "amqp://guest:guest@no-such-host.invalid";
    let limit = Duration::from_secs(5);
    let error = env.builder_at(nowhere).connect_timeout(limit).open().await;
    let error = error.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(
        error.to_string().contains("does not resolve") || error.is_timeout(),
        "{error}"
    );
    // The next address is tried all the same.
    let opening = env.builder_at(nowhere).address(&env.uri).open();
    let connection = opening.await.unwrap();
    let fixture = RpcFixture::over(&env, env.connect().await, connection).await;
    fixture.is_well(&env).await;
}

async fn row_58_replies_that_nobody_reads_hold_nobody_up(env: Env) {
    const UNREAD: usize = 200;
    let calling = env.connect().await;
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let server = serve_concurrently(&serving, &subject, 10);
    let _server = server.start().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let call = probe.large(50_000).timeout(LONG).send().await.unwrap();
        unread.push(call);
    }
    // They are taken in at once, and wait for their readers one by one.
    eventually("all have been answered", || async {
        let pending = calling.stats().pending_calls;
        if pending == 0 { Ok(()) } else { Err(pending) }
    })
    .await;
    for n in 0..100 {
        let text = n.to_string();
        assert_eq!(probe.echo(text.clone()).await.unwrap(), text);
    }
    // Half of them are read, half are dropped.
    for call in &mut unread[..UNREAD / 2] {
        assert_eq!(call.await.unwrap().len(), 50_000);
    }
    drop(unread);
    assert_eq!(calling.stats().dropped_replies, 0);
}

mod old {
    #[lepus::service(name = "contract")]
    pub trait Contract {
        async fn double(&self, n: u64) -> u64;
    }
}

mod new {
    #[lepus::service(name = "contract")]
    pub trait Contract {
        async fn double(&self, n: u64) -> u64;
        async fn triple(&self, n: u64) -> u64;
    }
}

struct Multiplier;

impl old::Contract for Multiplier {
    async fn double(&self, n: u64) -> u64 {
        2 * n
    }
}

impl new::Contract for Multiplier {
    async fn double(&self, n: u64) -> u64 {
        2 * n
    }

    async fn triple(&self, n: u64) -> u64 {
        3 * n
    }
}

async fn row_60_old_and_new_contracts_meet(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    env.name("contract");
    let (before, after) = (
        old::ContractClient::new(&calling),
        new::ContractClient::new(&calling),
    );
    let server = Server::new(&serving).serve(old::ContractServer::new(Multiplier));
    let first = server.start().await.unwrap();
    assert_eq!(after.double(3).await.unwrap(), 6);
    let error = after.triple(3).await.unwrap_err();
    let error = error.rpc().unwrap();
    assert_eq!(error.code(), Some(Code::Unimplemented), "{error}");
    assert!(!error.may_have_executed(), "{error}");
    assert!(error.to_string().contains("triple"), "{error}");
    // Both at once, as while an update is rolled out.
    let server = Server::new(&serving).serve(new::ContractServer::new(Multiplier));
    let _second = server.start().await.unwrap();
    for _ in 0..20 {
        assert_eq!(before.double(3).await.unwrap(), 6);
        match after.triple(3).await {
            Ok(tripled) => assert_eq!(tripled, 9),
            Err(error) => {
                let code = error.rpc().unwrap().code();
                assert_eq!(code, Some(Code::Unimplemented), "{error}");
            }
        }
    }
    first.stop().await.unwrap();
    assert_eq!(after.triple(3).await.unwrap(), 9);
    assert_eq!(before.double(3).await.unwrap(), 6);
}
