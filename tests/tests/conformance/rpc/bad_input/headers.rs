//! Headers that users put into their calls.

use super::{Glass, ZoomClient};
use lepus::{Topic, WorkQueue};
use lepus_tests::probe::{ProbeClient, RpcFixture};
use lepus_tests::{Env, conformance};

conformance!(reserved_headers_are_not_sent, several_headers_go_along,);

async fn reserved_headers_are_not_sent(env: Env) {
    let connection = env.connect().await;
    let probe = ProbeClient::new(&connection);
    let jobs = WorkQueue::<u32>::new("jobs").producer(&connection);
    let events = Topic::<u32>::new("events").publisher(&connection);
    for name in [
        "rpc-accept",
        "rpc-status",
        "attempt",
        "error",
        "failed-at",
        "source-exchange",
        "source-routing-key",
        "source-user-id",
        "x-death",
        "x-delivery-count",
    ] {
        let table = || lepus::amqp::Table::from([(name.to_owned(), lepus::amqp::Value::from(7))]);
        let calls = [
            probe.facts().header(name, 7).await.map(drop),
            probe
                .facts()
                .headers(table())
                .header("tenant", 7)
                .await
                .map(drop),
            probe.note(1).header(name, 7).await,
        ];
        let calls = calls.map(|call| call.map_err(|error| error.rpc().cloned().unwrap()));
        let others = [
            jobs.push(&1).header(name, 7).await,
            jobs.push(&1).headers(table()).await,
            events.publish("a", &1).header(name, 7).await,
            events.publish("a", &1).headers(table()).await,
        ];
        for refused in calls.into_iter().chain(others) {
            let error = refused.unwrap_err();
            assert!(error.is_invalid(), "{name}: {error}");
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            assert!(!error.may_have_executed(), "{error}");
        }
    }
    // A local one is no exception: it becomes a remote one some day.
    let local = ZoomClient::local(Glass)
        .half(1.0)
        .header("error", "x")
        .await;
    assert!(local.unwrap_err().is_invalid());
}

async fn several_headers_go_along(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let table = lepus::amqp::Table::from([
        ("tenant".to_owned(), lepus::amqp::Value::from("fox")),
        ("size".to_owned(), lepus::amqp::Value::from(u64::MAX)),
    ]);
    let call = fixture
        .probe
        .facts()
        .header("tenant", "hare")
        .header("colour", "grey");
    let facts = call.headers(table).await.unwrap();
    let seen: Vec<_> = facts
        .headers
        .iter()
        .map(|(a, b)| (&a[..], &b[..]))
        .collect();
    let size = u64::MAX.to_string();
    assert_eq!(
        seen,
        [("colour", "grey"), ("size", &size), ("tenant", "fox")]
    );
    fixture.is_well(&env).await;
}
