//! The end of connections.

use super::LONG;
use lepus::amqp::ConnectionState;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, serve};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;

conformance!(
    pending_calls_end,
    servers_end,
    the_last_holder_closes_it,
    a_server_holds_its_connection,
);

async fn pending_calls_end(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    let idempotent = fixture
        .probe
        .hold_idempotent(2)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    fixture.calling.close().await;
    for error in [
        call.await.unwrap_err().rpc().unwrap().clone(),
        idempotent.await.unwrap_err().rpc().unwrap().clone(),
    ] {
        assert!(error.is_closed() && !error.is_disconnected(), "{error}");
        assert!(error.may_have_executed() && !error.is_timeout(), "{error}");
        assert!(
            error.to_string().contains("the connection is closed"),
            "{error}"
        );
    }
    assert_eq!(fixture.calling.stats().pending_calls, 0);
    assert!(matches!(
        *fixture.calling.state().borrow(),
        ConnectionState::Closed
    ));
    if let Some(broker) = env.embedded() {
        eventually("one connection is left", || async {
            broker.connections().len() == 1
        })
        .await;
    }
}

async fn servers_end(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let call = fixture.probe.hold_idempotent(1).timeout(LONG);
    let call = call.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let serving = tokio::spawn(fixture.server.until(std::future::pending()));
    fixture.serving.close().await;
    let error = serving.await.unwrap().unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert_eq!(fixture.subject.gate.dropped(), 1);
    // What it had in hand is for the next.
    fixture.subject.gate.open_for_good();
    let next = env.connect().await;
    let _server = serve(&next, &fixture.subject).start().await.unwrap();
    assert_eq!(call.await.unwrap(), 1);
}

async fn the_last_holder_closes_it(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let RpcFixture {
        probe,
        calling,
        serving,
        server,
        subject,
        queue,
    } = fixture;
    let raw = Raw::open(&env.uri).await;
    let call = tokio::spawn(probe.hold(1).timeout(LONG).send());
    let call = call.await.unwrap().unwrap();
    subject.gate.entered(1).await;
    drop((probe, calling));
    // A call that is still awaited holds the connection.
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    drop((serving, server));
    eventually("no consumer", || async {
        raw.count(&queue).await.consumers == 0
    })
    .await;
    if let Some(broker) = env.embedded() {
        eventually("no connection but the test's", || async {
            let left = broker.connections();
            if left.len() == 1 {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }
}

async fn a_server_holds_its_connection(env: Env) {
    let subject = Arc::new(Subject::default());
    let server = serve(&env.connect().await, &subject).start().await.unwrap();
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    env.name("probe");
    assert_eq!(probe.echo("held".into()).await.unwrap(), "held");
    server.stop().await.unwrap();
    if let Some(broker) = env.embedded() {
        eventually("one connection is left", || async {
            broker.connections().len() == 1
        })
        .await;
    }
}
