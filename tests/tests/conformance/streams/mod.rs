//! Methods that return a stream, and those that take one.

mod both_ways;
mod dynamic;
mod ends;
mod losing;
mod node;
mod opening;
mod order;
mod producers;
mod resume;
mod rules;
pub(crate) mod source;
mod upload;

use futures_util::FutureExt;
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{CallError, Code, Connection, Context, Running, Server, Status, Streaming};
use lepus_tests::{Env, eventually};
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The method's own error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gone {
    after: u64,
}

type ShopResult<T> = Result<T, Gone>;

#[lepus::service(name = "ticker")]
trait Ticker {
    /// The numbers from 0, so many of them.
    fn count(&self, to: u64) -> impl Stream<Item = u64>;
    /// So many numbers, and then its own error.
    fn gone(&self, after: u64) -> impl Stream<Item = Result<u64, Gone>>;
    /// The same by an alias, with further bounds.
    fn alias(&self, after: u64) -> impl Stream<Item = ShopResult<u64>> + Send;
    /// So many numbers, and then a status.
    fn busy(&self, after: u64) -> impl Stream<Item = Result<u64, Status>>;
    /// So many numbers, and then a panic.
    fn panics(&self, after: u64) -> impl Stream<Item = u64>;
    /// Items of these sizes.
    fn sized(&self, sizes: Vec<usize>) -> impl Stream<Item = Vec<u8>>;
    /// One number after the other, for as long as somebody reads.
    fn forever(&self) -> impl Stream<Item = u64>;
    /// The numbers from this one on, for as long as somebody reads.
    fn after(&self, first: u64) -> impl Stream<Item = u64>;
    /// No item, for as long as somebody reads.
    fn quiet(&self) -> impl Stream<Item = u64>;
    /// One number, and another one when the server shuts down.
    fn leaving(&self) -> impl Stream<Item = u64>;
    /// A plain call.
    async fn echo(&self, text: String) -> String;
    /// A plain call that never ends by itself.
    async fn hang(&self);
}

/// The implementation, with counters of what it did.
#[derive(Debug, Default)]
struct Subject {
    /// The items that were asked of a stream.
    produced: AtomicU64,
    open: AtomicU64,
}

/// A stream that is open, as the implementation sees it.
struct Open<'a>(&'a Subject);

impl<'a> Open<'a> {
    fn of(subject: &'a Subject) -> Self {
        subject.open.fetch_add(1, Ordering::SeqCst);
        Self(subject)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Subject {
    fn produced(&self) -> u64 {
        self.produced.load(Ordering::SeqCst)
    }

    fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Numbers from 0, counted. It borrows the implementation.
    fn numbers(&self) -> impl Stream<Item = u64> + Send {
        let open = Open::of(self);
        stream::iter(0..).map(move |number| {
            // All of it, so that it is dropped with the stream.
            let open = &open;
            open.0.produced.fetch_add(1, Ordering::SeqCst);
            number
        })
    }

    async fn is_left_by_all(&self) {
        eventually("no stream is open", || async { self.open() == 0 }).await;
    }
}

impl Ticker for Subject {
    fn count(&self, to: u64) -> impl Stream<Item = u64> {
        self.numbers().take(to as usize)
    }

    fn gone(&self, after: u64) -> impl Stream<Item = Result<u64, Gone>> {
        let numbers = self.numbers().take(after as usize).map(Ok);
        numbers.chain(stream::iter([Err(Gone { after }), Ok(u64::MAX)]))
    }

    fn alias(&self, after: u64) -> impl Stream<Item = ShopResult<u64>> {
        self.gone(after)
    }

    fn busy(&self, after: u64) -> impl Stream<Item = Result<u64, Status>> {
        // `?` inside of a producer.
        stream::try_unfold(0, move |number| async move {
            let number = below(number, after)?;
            Ok(Some((number, number + 1)))
        })
    }

    fn panics(&self, after: u64) -> impl Stream<Item = u64> {
        self.numbers().inspect(move |number| {
            if *number == after {
                // Without the hook, which would print it.
                std::panic::resume_unwind(Box::new("a stream panics"));
            }
        })
    }

    fn sized(&self, sizes: Vec<usize>) -> impl Stream<Item = Vec<u8>> {
        stream::iter(sizes).map(|size| vec![7; size])
    }

    fn forever(&self) -> impl Stream<Item = u64> {
        self.numbers()
    }

    fn after(&self, first: u64) -> impl Stream<Item = u64> {
        self.numbers().map(move |number| first + number)
    }

    fn quiet(&self) -> impl Stream<Item = u64> {
        let open = Open::of(self);
        stream::pending().inspect(move |_| {
            let _ = &open;
        })
    }

    fn leaving(&self) -> impl Stream<Item = u64> {
        let last = stream::once(async {
            let context = Context::current();
            let mut draining = pin!(context.draining());
            // Counted when it has asked for the end, for a test that waits for this.
            assert!(draining.as_mut().now_or_never().is_none());
            let _open = Open::of(self);
            draining.await;
            2
        });
        stream::iter([1]).chain(last)
    }

    async fn echo(&self, text: String) -> String {
        text
    }

    async fn hang(&self) {
        let _open = Open::of(self);
        std::future::pending().await
    }
}

fn below(number: u64, limit: u64) -> Result<u64, Status> {
    if number < limit {
        Ok(number)
    } else {
        Err(Status::new(Code::OutOfRange, "no more of them"))
    }
}

/// A server and a client, as two processes would be.
struct Fixture {
    serving: Connection,
    calling: Connection,
    server: Running,
    subject: Arc<Subject>,
    ticker: TickerClient,
}

impl Fixture {
    async fn start(env: &Env) -> Self {
        Self::over(env, env.connect().await, env.connect().await).await
    }

    async fn over(env: &Env, serving: Connection, calling: Connection) -> Self {
        env.name("ticker");
        let subject = Arc::new(Subject::default());
        let server = serve(&serving, &subject).start().await;
        Self {
            server: server.unwrap_or_else(|error| panic!("{error}")),
            ticker: TickerClient::new(&calling),
            serving,
            calling,
            subject,
        }
    }

    /// Nothing is left of any stream on either side.
    async fn is_at_rest(&self) {
        self.subject.is_left_by_all().await;
        eventually("no stream is registered", || async {
            self.serving.stats().open_streams + self.calling.stats().open_streams == 0
        })
        .await;
    }

    /// The same server still answers calls.
    async fn is_well(&self) {
        let echo = self.ticker.echo("still there".into()).await;
        assert_eq!(echo.as_deref().ok(), Some("still there"), "{echo:?}");
    }

    /// So many items were asked of streams, and no further one while other calls are made and answered.
    async fn has_produced(&self, items: u64) {
        eventually(&format!("{items} items"), || async {
            let produced = self.subject.produced();
            if produced >= items {
                Ok(())
            } else {
                Err(produced)
            }
        })
        .await;
        for _ in 0..20 {
            self.is_well().await;
        }
        assert_eq!(self.subject.produced(), items);
    }
}

fn serve(connection: &Connection, subject: &Arc<Subject>) -> Server {
    Server::new(connection).serve(TickerServer::from_arc(Arc::clone(subject)))
}

/// Reads a stream to its end: its items, and the error that ended it.
async fn read<T, E>(mut items: Streaming<T, E>) -> (Vec<T>, Option<CallError<E>>)
where
    T: serde::de::DeserializeOwned,
    E: serde::de::DeserializeOwned,
{
    let mut read = Vec::new();
    while let Some(item) = items.next().await {
        match item {
            Ok(item) => read.push(item),
            Err(error) => {
                assert!(items.next().await.is_none(), "an error is the last item");
                return (read, Some(error));
            }
        }
    }
    assert!(items.next().await.is_none());
    (read, None)
}

/// The code of the status that a stream has ended with.
fn code<E: std::fmt::Debug>(error: Option<CallError<E>>) -> Code {
    let error = error.expect("an error");
    let status = error.rpc().and_then(lepus::Error::status);
    status.unwrap_or_else(|| panic!("{error:?}")).code()
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
