//! The ends of streams: errors, limits, readers that leave, and servers that shut down.

use super::{Fixture, LONG, SHORT, Subject, TickerClient, code, read, serve};
use futures_util::stream::{self, Stream};
use lepus::{Code, Outcome};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;

conformance!(
    an_own_error_ends_a_stream,
    a_status_ends_a_stream,
    a_panic_ends_a_stream,
    an_item_that_is_too_large_ends_a_stream,
    a_reader_that_leaves_cancels_the_stream,
    a_quiet_stream_is_idle,
    a_stream_has_a_total_time,
    an_open_stream_has_no_deadline,
    a_shutdown_ends_streams,
    a_stream_may_say_goodbye,
    a_dropped_server_ends_streams,
    a_closed_connection_holds_no_channel_for_streams,
);

async fn an_own_error_ends_a_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    for after in [0, 1, 100] {
        let (numbers, error) = read(fixture.ticker.gone(after).await.unwrap()).await;
        assert!(numbers.into_iter().eq(0..after));
        assert_eq!(error.unwrap().service().unwrap().after, after);
        let (numbers, error) = read(fixture.ticker.alias(after).await.unwrap()).await;
        assert_eq!(numbers.len() as u64, after);
        assert_eq!(error.unwrap().service().unwrap().after, after);
    }
    fixture.is_at_rest().await;
}

async fn a_status_ends_a_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    for after in [0, 3] {
        let (numbers, error) = read(fixture.ticker.busy(after).await.unwrap()).await;
        assert_eq!(numbers.len() as u64, after);
        assert_eq!(code(error), Code::OutOfRange);
    }
}

async fn a_panic_ends_a_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    let (numbers, error) = read(fixture.ticker.panics(3).window(1).await.unwrap()).await;
    assert!(numbers.into_iter().eq(0..3));
    assert_eq!(code(error), Code::Internal);
    assert_eq!(fixture.serving.stats().panics, 1);
    fixture.is_well().await;
    fixture.is_at_rest().await;
}

async fn an_item_that_is_too_large_ends_a_stream(env: Env) {
    let serving = env.builder().max_message_size(10_000).open().await.unwrap();
    let fixture = Fixture::over(&env, serving, env.connect().await).await;
    let sizes = vec![9_000, 9_000, 10_001, 5];
    let (items, error) = read(fixture.ticker.sized(sizes).await.unwrap()).await;
    assert_eq!(items.len(), 2);
    let text = error.as_ref().unwrap().to_string();
    assert!(text.contains("10000"), "{text}");
    assert_eq!(code(error), Code::ResourceExhausted);
    fixture.is_well().await;
}

async fn a_reader_that_leaves_cancels_the_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    let mut numbers = fixture.ticker.forever().await.unwrap();
    for expected in 0..100 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
    }
    assert_eq!(numbers.items(), 100);
    let quiet = fixture.ticker.quiet().await.unwrap();
    assert_eq!(fixture.subject.open(), 2);
    drop((numbers, quiet));
    fixture.is_at_rest().await;
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
    fixture.is_well().await;
}

async fn a_quiet_stream_is_idle(env: Env) {
    let fixture = Fixture::start(&env).await;
    let stream = fixture.ticker.quiet().idle(SHORT).await.unwrap();
    let (none, error) = read(stream).await;
    let error = error.unwrap();
    assert!(none.is_empty() && error.is_timeout(), "{error}");
    fixture.is_at_rest().await;
}

/// A service whose items are sent by the test.
struct Fed(tokio::sync::Mutex<tokio::sync::mpsc::Receiver<u64>>);

#[lepus::service(name = "feed")]
trait Feed {
    fn numbers(&self) -> impl Stream<Item = u64>;
}

impl Feed for Fed {
    fn numbers(&self) -> impl Stream<Item = u64> {
        stream::poll_fn(|cx| match self.0.try_lock() {
            Ok(mut numbers) => numbers.poll_recv(cx),
            Err(_) => unreachable!("there is one stream"),
        })
    }
}

/// A clock that stands still, so that the test tells the time; there is no broker between the two sides.
#[tokio::test(start_paused = true)]
async fn the_time_of_the_reader_is_not_idle() {
    let (feed, numbers) = tokio::sync::mpsc::channel(1);
    let feeder = FeedClient::local(Fed(tokio::sync::Mutex::new(numbers)));
    let mut numbers = feeder.numbers().window(1).idle(SHORT).await.unwrap();
    for number in 0..3 {
        // Longer than `idle` between two items, of which the reader waits for a half.
        tokio::time::advance(SHORT * 2).await;
        let fed = async {
            tokio::time::advance(SHORT / 2).await;
            feed.send(number).await.unwrap();
        };
        let (next, ()) = tokio::join!(numbers.next(), fed);
        assert_eq!(next.unwrap().unwrap(), number);
    }
    let error = numbers.next().await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

async fn a_stream_has_a_total_time(env: Env) {
    let fixture = Fixture::start(&env).await;
    let (none, error) = read(fixture.ticker.quiet().total(SHORT).await.unwrap()).await;
    assert!(none.is_empty() && error.unwrap().is_timeout());
    let (numbers, error) = read(fixture.ticker.forever().total(SHORT).await.unwrap()).await;
    let error = error.unwrap();
    assert!(!numbers.is_empty() && error.is_timeout(), "{error}");
    let text = format!("after {} items", numbers.len());
    let report = format!("{:?}", error.rpc().unwrap());
    assert!(report.contains(&text), "{report}");
    fixture.is_at_rest().await;
}

async fn an_open_stream_has_no_deadline(env: Env) {
    let fixture = Fixture::start(&env).await;
    let limit = SHORT * 5;
    let numbers = fixture.ticker.forever().window(1).timeout(limit);
    let mut numbers = numbers.await.unwrap();
    // A later call with the same limit has been stopped at its deadline on both sides. That of the stream is over too.
    let error = fixture.ticker.hang().timeout(limit).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    eventually("the handler is stopped", || async {
        fixture.subject.open() == 1
    })
    .await;
    for expected in 0..10 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
    }
}

async fn a_shutdown_ends_streams(env: Env) {
    env.name("ticker");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    // The grace period is not waited for: it is longer than a test may take.
    let server = serve(&serving, &subject).grace(100 * LONG).start().await;
    let ticker = TickerClient::new(&calling);
    let mut numbers = ticker.forever().window(4).await.unwrap();
    let quiet = ticker.quiet().await.unwrap();
    numbers.next().await.unwrap().unwrap();
    server.unwrap().stop().await.unwrap();
    let (read_on, error) = read(numbers).await;
    assert!(read_on.into_iter().zip(1..).all(|(came, due)| came == due));
    assert_eq!(code(error), Code::Unavailable);
    let (none, error) = read(quiet).await;
    assert_eq!((none.len(), code(error)), (0, Code::Unavailable));
    subject.is_left_by_all().await;
}

async fn a_stream_may_say_goodbye(env: Env) {
    let fixture = Fixture::start(&env).await;
    let mut numbers = fixture.ticker.leaving().await.unwrap();
    assert_eq!(numbers.next().await.unwrap().unwrap(), 1);
    eventually("it asks for the end", || async {
        fixture.subject.open() == 1
    })
    .await;
    let stopping = tokio::spawn(fixture.server.stop());
    let (numbers, error) = read(numbers).await;
    assert_eq!((numbers, error.is_none()), (vec![2], true));
    stopping.await.unwrap().unwrap();
}

async fn a_dropped_server_ends_streams(env: Env) {
    let fixture = Fixture::start(&env).await;
    let stream = fixture.ticker.quiet().await.unwrap();
    drop(fixture.server);
    let (none, error) = read(stream).await;
    let error = error.unwrap();
    assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::Answered));
    assert_eq!((none.len(), code(Some(error))), (0, Code::Unavailable));
    fixture.subject.is_left_by_all().await;
    eventually("no stream", || async {
        fixture.serving.stats().open_streams == 0
    })
    .await;
}

async fn a_closed_connection_holds_no_channel_for_streams(env: Env) {
    let fixture = Fixture::start(&env).await;
    let (numbers, error) = read(fixture.ticker.count(3).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 3);
    fixture.server.stop().await.unwrap();
    for connection in [&fixture.serving, &fixture.calling] {
        connection.close().await;
        eventually("no channel is held", || async {
            let stats = connection.stats();
            if stats.channels == 0 {
                Ok(())
            } else {
                Err(format!("{stats:?}"))
            }
        })
        .await;
    }
}
