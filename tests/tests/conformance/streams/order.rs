//! Items in their order, each once, under any window.

use super::{Fixture, Subject, TickerClient, TickerServer, code, read};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lepus::middleware::{Next, from_fn};
use lepus::rpc::{ClientBuilder, Request};
use lepus::{Code, Codec, Server};
use lepus_tests::{Env, conformance};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

conformance!(
    items_come_complete_and_in_order,
    all_codecs_carry_items,
    bytes_are_items,
    streams_run_side_by_side_with_calls,
    local_clients_stream_too,
    layers_see_the_opening_and_the_end,
);

async fn items_come_complete_and_in_order(env: Env) {
    let fixture = Fixture::start(&env).await;
    for window in [0, 1, 2, 3, 32, 1000, 100_000] {
        let numbers = fixture.ticker.count(1000).window(window).await.unwrap();
        let (numbers, error) = read(numbers).await;
        assert!(error.is_none(), "{error:?}");
        assert!(numbers.into_iter().eq(0..1000), "window {window}");
    }
    let (none, error) = read(fixture.ticker.count(0).await.unwrap()).await;
    assert!(none.is_empty() && error.is_none());
    // As a stream of the ecosystem.
    let numbers = fixture.ticker.count(5).await.unwrap();
    let sum = numbers
        .map(Result::unwrap)
        .fold(0, |sum, number| async move { sum + number });
    assert_eq!(sum.await, 10);
    fixture.is_at_rest().await;
}

async fn all_codecs_carry_items(env: Env) {
    let fixture = Fixture::start(&env).await;
    for codec in [Codec::MsgPack, Codec::Json] {
        let ticker: TickerClient = TickerClient::builder(&fixture.calling).codec(codec).build();
        let (numbers, error) = read(ticker.gone(40).await.unwrap()).await;
        assert!(numbers.into_iter().eq(0..40), "{codec}");
        assert!(
            matches!(error, Some(error) if error.service().is_some()),
            "{codec}"
        );
    }
}

async fn bytes_are_items(env: Env) {
    let fixture = Fixture::start(&env).await;
    let sizes = vec![0, 1, 255, 256, 40_000, 40_000, 70_000, 1, 1_000_000, 0];
    let items = fixture
        .ticker
        .sized(sizes.clone())
        .window(100)
        .await
        .unwrap();
    let (items, error) = read(items).await;
    assert!(error.is_none(), "{error:?}");
    assert!(items.iter().map(Vec::len).eq(sizes));
    assert!(items.iter().flatten().all(|byte| *byte == 7));
}

async fn streams_run_side_by_side_with_calls(env: Env) {
    let fixture = Fixture::start(&env).await;
    // Beyond the service's concurrency, which is 1.
    let streams =
        join_all((0..50).map(|_| async { fixture.ticker.forever().await.unwrap() })).await;
    fixture.is_well().await;
    let mut reading = streams;
    for round in 0..100 {
        for stream in &mut reading {
            assert_eq!(stream.next().await.unwrap().unwrap(), round);
        }
    }
    fixture.is_well().await;
    assert_eq!(fixture.serving.stats().open_streams, 50);
    drop(reading);
    fixture.is_at_rest().await;
}

async fn local_clients_stream_too(_: Env) {
    let subject = Arc::new(Subject::default());
    let local = ClientBuilder::local(TickerServer::from_arc(Arc::clone(&subject)));
    let ticker: TickerClient = local.build();
    for window in [1, 2, 100] {
        let (numbers, error) = read(ticker.count(50).window(window).await.unwrap()).await;
        assert!(error.is_none() && numbers.into_iter().eq(0..50));
    }
    let (numbers, error) = read(ticker.alias(3).await.unwrap()).await;
    assert_eq!(
        (numbers, error.unwrap().service().unwrap().after),
        (vec![0, 1, 2], 3)
    );
    let (numbers, error) = read(ticker.busy(3).await.unwrap()).await;
    assert_eq!((numbers.len(), code(error)), (3, Code::OutOfRange));
    let (numbers, error) = read(ticker.panics(3).window(1).await.unwrap()).await;
    assert_eq!((numbers.len(), code(error)), (3, Code::Internal));
    let before = subject.produced();
    let mut numbers = ticker.forever().window(4).await.unwrap();
    assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
    tokio::task::yield_now().await;
    assert!(
        subject.produced() - before <= 5,
        "no further than the window"
    );
    drop(numbers);
    subject.is_left_by_all().await;
}

async fn layers_see_the_opening_and_the_end(env: Env) {
    env.name("ticker");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let seen = Arc::new(AtomicU64::new(0));
    let count = |seen: &Arc<AtomicU64>| {
        let seen = Arc::clone(seen);
        from_fn(move |request: Request, next: Next| {
            let seen = Arc::clone(&seen);
            async move {
                let refused = request.context().header("refused").is_some();
                if refused {
                    return lepus::Status::new(Code::PermissionDenied, "not for you").into();
                }
                let reply = next.run(request).await;
                seen.fetch_add(1, Ordering::SeqCst);
                reply
            }
        })
    };
    let subject = Arc::new(Subject::default());
    let service = TickerServer::from_arc(Arc::clone(&subject)).layer(count(&seen));
    let server = Server::new(&serving).serve(service).start().await.unwrap();
    let opened = Arc::new(AtomicU64::new(0));
    let builder = TickerClient::builder(&calling).layer(count(&opened));
    let ticker = builder.build();
    let numbers = ticker.count(100).window(8).await.unwrap();
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    assert_eq!(seen.load(Ordering::SeqCst), 0, "it has not ended");
    let (numbers, error) = read(numbers).await;
    assert!(error.is_none() && numbers.into_iter().eq(0..100));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let plain = TickerClient::new(&calling);
    let refused = plain.count(1).header("refused", true).await.unwrap_err();
    assert_eq!(code(Some(refused)), Code::PermissionDenied);
    assert_eq!(subject.produced(), 100);
    server.stop().await.unwrap();
}
