//! Peers and connections that are lost while a stream is open.

use super::{Fixture, LONG, TickerClient, read};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance, eventually};

conformance!(
    a_client_that_loses_its_connection_is_told,
    a_client_of_a_lost_server_is_told,
    a_server_of_a_lost_client_drops_the_stream,
    a_stalled_client_delays_nobody,
);

async fn a_client_that_loses_its_connection_is_told(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let mut numbers = fixture.ticker.forever().window(8).await.unwrap();
    for _ in 0..5 {
        numbers.next().await.unwrap().unwrap();
    }
    proxy.cut(Cut::Rst);
    let (rest, error) = read(numbers).await;
    let error = error.unwrap();
    assert!(error.is_disconnected(), "{error}");
    let report = format!("{:?}", error.rpc().unwrap());
    assert!(
        report.contains(&format!("after {} items", 5 + rest.len())),
        "{report}"
    );
    fixture.is_at_rest().await;
    let (numbers, error) = read(fixture.ticker.count(3).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 3);
}

async fn a_client_of_a_lost_server_is_told(env: Env) {
    let (proxy, serving) = env.proxied().await;
    let fixture = Fixture::over(&env, serving, env.connect().await).await;
    let quiet = fixture.ticker.quiet().await.unwrap();
    let mut numbers = fixture.ticker.forever().window(4).await.unwrap();
    numbers.next().await.unwrap().unwrap();
    proxy.cut(Cut::Rst);
    // A credit is returned, because the server's queue is gone with its connection.
    let (rest, error) = read(numbers).await;
    assert!(rest.into_iter().eq(1..4), "what was sent");
    let error = error.unwrap();
    assert!(error.is_disconnected(), "{error}");
    // The quiet one is told by a probe.
    let (none, error) = tokio::time::timeout(LONG, read(quiet))
        .await
        .expect("a probe");
    let error = error.unwrap();
    assert!(none.is_empty() && error.is_disconnected(), "{error}");
    fixture.is_at_rest().await;
    fixture.is_well().await;
    let (numbers, error) = read(fixture.ticker.count(3).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 3);
}

async fn a_server_of_a_lost_client_drops_the_stream(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let quiet = fixture.ticker.quiet().await.unwrap();
    proxy.down().await;
    let (_, error) = read(quiet).await;
    assert!(error.unwrap().is_disconnected());
    // By a probe to its queue, which is gone.
    let dropped = eventually("the stream is dropped", || async {
        fixture.subject.open() == 0
    });
    tokio::time::timeout(LONG, dropped).await.unwrap();
    assert_eq!(fixture.serving.stats().open_streams, 0);
    proxy.up().await;
}

async fn a_stalled_client_delays_nobody(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let mut stalled = fixture.ticker.forever().window(1000).await.unwrap();
    stalled.next().await.unwrap().unwrap();
    proxy.stall_both();
    let others = env.connect().await;
    let ticker = TickerClient::new(&others);
    for _ in 0..20 {
        assert_eq!(ticker.echo("well".into()).await.unwrap(), "well");
    }
    let (numbers, error) = read(ticker.count(2000).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 2000);
    // It goes on where it was.
    proxy.resume();
    for expected in 1..3000 {
        assert_eq!(stalled.next().await.unwrap().unwrap(), expected);
    }
}
