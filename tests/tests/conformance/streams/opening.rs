//! Streams that are opened, and those that are refused.

use super::{Fixture, LONG, SHORT, Subject, TickerClient, code, read, serve};
use lepus::{Code, Server};
use lepus_tests::peer::Caller;
use lepus_tests::probe::is_settled;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;

conformance!(
    a_quiet_stream_is_opened,
    an_opening_that_nobody_takes_times_out,
    a_server_has_so_many_streams,
    an_opening_is_acknowledged_at_once,
    a_caller_that_asks_for_no_stream_is_told,
    a_redelivered_opening_is_aborted,
    an_opening_that_is_dropped_is_cancelled,
    the_description_tells_which_methods_stream,
);

/// The older contract, in which the method returns a value.
#[lepus::service(name = "ticker")]
trait OlderTicker {
    async fn count(&self, to: u64) -> u64;
}

impl OlderTicker for Subject {
    async fn count(&self, to: u64) -> u64 {
        to
    }
}

async fn a_quiet_stream_is_opened(env: Env) {
    let fixture = Fixture::start(&env).await;
    let stream = fixture.ticker.quiet().await.unwrap();
    assert_eq!(fixture.subject.open(), 1);
    assert_eq!(stream.items(), 0);
    drop(stream);
    fixture.is_at_rest().await;
}

async fn an_opening_that_nobody_takes_times_out(env: Env) {
    let fixture = Fixture::start(&env).await;
    fixture.server.stop().await.unwrap();
    let error = fixture.ticker.count(1).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // A server that begins later finds nothing of it.
    let server = serve(&fixture.serving, &fixture.subject).start().await;
    fixture.ticker.echo("there".into()).await.unwrap();
    assert_eq!(fixture.subject.produced(), 0);
    server.unwrap().stop().await.unwrap();
    // A server of an older contract.
    let older = OlderTickerServer::from_arc(Arc::clone(&fixture.subject));
    let server = Server::new(&fixture.serving).serve(older).start().await;
    let error = fixture.ticker.count(1).await.unwrap_err();
    assert!(error.is_decode(), "{error}");
    server.unwrap().stop().await.unwrap();
}

async fn a_server_has_so_many_streams(env: Env) {
    env.name("ticker");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve(&serving, &subject).streams(2).start().await.unwrap();
    let ticker = TickerClient::new(&calling);
    let first = ticker.quiet().await.unwrap();
    let _second = ticker.quiet().await.unwrap();
    let refused = ticker.quiet().await.unwrap_err();
    assert_eq!(code(Some(refused)), Code::ResourceExhausted);
    // Nothing else is held up.
    assert_eq!(ticker.echo("well".into()).await.unwrap(), "well");
    drop(first);
    eventually("the permit is back", || async { subject.open() == 1 }).await;
    eventually("another one opens", || async {
        ticker.quiet().await.is_ok()
    })
    .await;
    server.stop().await.unwrap();
}

async fn an_opening_is_acknowledged_at_once(env: Env) {
    let fixture = Fixture::start(&env).await;
    let _streams = [
        fixture.ticker.quiet().await.unwrap(),
        fixture.ticker.quiet().await.unwrap(),
    ];
    is_settled(&env, &env.name("ticker")).await;
    eventually("nothing unsettled", || async {
        fixture.serving.stats().unsettled == 0
    })
    .await;
    assert_eq!(fixture.subject.open(), 2);
}

async fn a_caller_that_asks_for_no_stream_is_told(env: Env) {
    let fixture = Fixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let queue = env.name("ticker");
    let reply = caller
        .ask(&queue, caller.json("count"), br#"{"to":3}"#)
        .await;
    assert_eq!(
        reply.status.as_deref(),
        Some("failed_precondition"),
        "{reply:?}"
    );
    let message = reply.message.unwrap();
    assert!(message.contains("returns a stream"), "{message}");
    assert_eq!(fixture.subject.produced(), 0);
    is_settled(&env, &queue).await;
}

async fn a_redelivered_opening_is_aborted(env: Env) {
    env.name("ticker");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let ticker = TickerClient::new(&calling);
    // A server without Lepus takes the request, and gives it back.
    let raw = lepus_tests::raw::Raw::open(&env.uri).await;
    let queue = env.name("ticker");
    raw.declare(&queue).await;
    let opening = tokio::spawn(async move { ticker.count(9).timeout(LONG).await.map(drop) });
    let mut consumer = raw.consume(&queue, 1).await;
    let _taken = lepus_tests::raw::delivery(&mut consumer).await;
    let server = serve(&serving, &subject).start().await.unwrap();
    raw.close().await;
    let error = opening.await.unwrap().unwrap_err();
    assert_eq!(code(Some(error)), Code::Aborted);
    assert_eq!(subject.produced(), 0);
    is_settled(&env, &queue).await;
    server.stop().await.unwrap();
}

async fn an_opening_that_is_dropped_is_cancelled(env: Env) {
    let fixture = Fixture::start(&env).await;
    for _ in 0..20 {
        let opening = fixture.ticker.forever();
        // Whether or not the first message is there already.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), opening).await;
    }
    fixture.is_at_rest().await;
    let (numbers, error) = read(fixture.ticker.count(3).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 3);
}

async fn the_description_tells_which_methods_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    let discovery = lepus::Discovery::new(&fixture.calling);
    // Its control queue is declared after its start.
    let info = eventually("the server answers", || async {
        discovery.info("ticker").expect(1).await.unwrap().pop()
    })
    .await;
    let stream = |name: &str| {
        let endpoint = info.endpoints.iter().find(|endpoint| endpoint.name == name);
        endpoint.unwrap().data.stream.clone()
    };
    assert_eq!(stream("count").as_deref(), Some("server"));
    assert_eq!(stream("echo"), None);
}
