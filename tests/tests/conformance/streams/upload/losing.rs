//! Peers, connections and channels that are lost during an upload.

use super::{Fixture, LONG, imports};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance, eventually};

conformance!(
    a_caller_that_loses_its_connection_is_told,
    a_caller_of_a_lost_server_is_told,
    a_method_of_a_lost_caller_is_told,
    a_stalled_caller_delays_nobody,
);

async fn a_caller_that_loses_its_connection_is_told(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let call = fixture
        .importer
        .import("lines".into(), fixture.source.endless(5), None);
    let call = tokio::spawn(call.into_future());
    eventually("five are read", || async { fixture.subject.read() == 5 }).await;
    proxy.cut(Cut::Rst);
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    let report = format!("{:?}", error.rpc().unwrap());
    assert!(report.contains("after 5 items"), "{report}");
    fixture.is_at_rest().await;
    imports(&fixture.importer, &fixture.source).await;
}

async fn a_caller_of_a_lost_server_is_told(env: Env) {
    let (proxy, serving) = env.proxied().await;
    let fixture = Fixture::over(&env, serving, env.connect().await).await;
    let quiet = fixture.importer.hangs(fixture.source.endless(1));
    let quiet = tokio::spawn(quiet.into_future());
    let busy = fixture.importer.gated(fixture.source.numbers(1_000_000));
    let busy = tokio::spawn(busy.into_future());
    eventually("both have begun", || async {
        fixture.subject.running() == 2
    })
    .await;
    fixture.subject.permits.add_permits(usize::MAX >> 4);
    eventually("it goes on", || async { fixture.subject.read() > 100 }).await;
    proxy.cut(Cut::Rst);
    // An item is returned, because the server's queue is gone with its connection.
    let error = busy.await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    // The quiet one is told by a probe.
    let told = tokio::time::timeout(LONG, quiet).await.expect("a probe");
    let error = told.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    let report = format!("{:?}", error.rpc().unwrap());
    assert!(report.contains("after 1 items"), "{report}");
    // The methods are told by the loss of their own connection.
    let error = fixture.subject.error().await;
    assert!(error.is_disconnected(), "{error}");
    fixture.is_at_rest().await;
    fixture.is_well().await;
    imports(&fixture.importer, &fixture.source).await;
}

async fn a_method_of_a_lost_caller_is_told(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let reading = fixture
        .importer
        .import("lines".into(), fixture.source.endless(7), None);
    let reading = tokio::spawn(reading.into_future());
    let hanging = fixture.importer.hangs(fixture.source.numbers(99));
    let hanging = tokio::spawn(hanging.into_future());
    eventually("both have begun", || async {
        fixture.subject.running() == 2 && fixture.subject.read() == 7
    })
    .await;
    proxy.down().await;
    assert!(reading.await.unwrap().unwrap_err().is_disconnected());
    assert!(hanging.await.unwrap().unwrap_err().is_disconnected());
    // By a probe to the caller's queue, which is gone.
    let told = tokio::time::timeout(LONG, fixture.subject.error()).await;
    let error = told.expect("a probe");
    assert!(error.is_disconnected(), "{error}");
    assert!(format!("{error:?}").contains("after 7 items"), "{error:?}");
    // One that does not read is dropped as well.
    let dropped = eventually("the methods are dropped", || async {
        fixture.subject.running() == 0
    });
    tokio::time::timeout(LONG, dropped).await.unwrap();
    assert_eq!(fixture.serving.stats().open_streams, 0);
    proxy.up().await;
    fixture.source.is_dropped().await;
}

async fn a_stalled_caller_delays_nobody(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let call = fixture.importer.gated(fixture.source.numbers(500));
    let call = tokio::spawn(call.into_future());
    fixture.subject.permits.add_permits(1);
    eventually("one is read", || async { fixture.subject.read() == 1 }).await;
    proxy.stall_both();
    let others = env.connect().await;
    let importer = super::ImporterClient::new(&others);
    for _ in 0..20 {
        assert_eq!(importer.echo("well".into()).await.unwrap(), "well");
    }
    imports(&importer, &fixture.source).await;
    // It goes on where it was.
    proxy.resume();
    fixture.subject.permits.add_permits(1000);
    assert_eq!(call.await.unwrap().unwrap(), 500);
    fixture.is_at_rest().await;
}
