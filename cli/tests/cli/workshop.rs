//! A service with a method for each thing that can happen to a call.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use lepus::{Code, Context, Running, Server, Status};
use lepus_tests::Env;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The method's own error.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("nothing can be divided by zero")]
pub(crate) struct DivideByZero {
    dividend: i64,
}

/// Does one thing of each kind.
#[lepus::service(name = "workshop", version = "1.2.0")]
pub(crate) trait Workshop {
    /// The quotient, towards zero.
    #[rpc(timeout = "2s", idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
    /// The square of a number, whose body is the argument.
    #[rpc(params = "bare")]
    async fn square(&self, n: i64) -> i64;
    /// Fails with a status.
    async fn missing(&self) -> Result<(), Status>;
    /// Never returns.
    async fn sleep(&self);
    /// Returns after so many milliseconds.
    async fn pause(&self, millis: u64);
    /// The header of a name.
    async fn header(&self, name: String) -> Option<String>;
    /// Names by numbers, which JSON does not have.
    async fn names(&self) -> BTreeMap<(u8, u8), String>;
    /// Bytes.
    async fn bytes(&self) -> Vec<u8>;
    /// A large number.
    async fn large(&self) -> u128;
    /// Has a queue of its own.
    #[rpc(queue = "workshop.aside")]
    async fn aside(&self, text: String) -> String;
    /// Returns nothing to its caller.
    #[rpc(oneway)]
    async fn tell(&self, text: String);
    /// The numbers from 1 on, up to a last one.
    fn count(&self, to: u64) -> impl Stream<Item = u64>;
    /// The numbers from 1 on, up to a last one, as texts of a thousand digits.
    fn pages(&self, to: u64) -> impl Stream<Item = String>;
    /// The number of its argument, which is the body, and then nothing for ever.
    #[rpc(params = "bare")]
    fn once(&self, n: u64) -> impl Stream<Item = u64>;
    /// The dividend, and then the method's own error.
    fn fail(&self, dividend: i64) -> impl Stream<Item = Result<i64, DivideByZero>>;
}

/// Tells that handlers have begun, and that they were dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    begun: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
    /// The items that streams have made.
    made: watch::Sender<u64>,
}

impl Watched {
    fn begin(&self) -> Begun {
        self.begun.send_modify(|begun| *begun += 1);
        Begun(self.clone())
    }

    pub(crate) async fn until_begun(&self) {
        let mut begun = self.begun.subscribe();
        begun.wait_for(|begun| *begun > 0).await.expect("a sender");
    }

    pub(crate) async fn until_dropped(&self) {
        let mut dropped = self.dropped.subscribe();
        let waiting = dropped.wait_for(|dropped| *dropped > 0);
        let waited = tokio::time::timeout(lepus_tests::process::PATIENCE, waiting).await;
        waited.expect("the handler is dropped").expect("a sender");
    }

    /// The items that streams have made.
    pub(crate) fn made(&self) -> u64 {
        *self.made.borrow()
    }
}

/// A handler that runs.
struct Begun(Watched);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.dropped.send_modify(|dropped| *dropped += 1);
    }
}

#[derive(Clone, Default)]
pub(crate) struct Bench {
    watched: Watched,
}

impl Workshop for Bench {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend
            .checked_div(divisor)
            .ok_or(DivideByZero { dividend })
    }

    async fn square(&self, n: i64) -> i64 {
        n * n
    }

    async fn missing(&self) -> Result<(), Status> {
        Err(Status::new(Code::NotFound, "no such\nhammer"))
    }

    async fn sleep(&self) {
        let _begun = self.watched.begin();
        std::future::pending().await
    }

    async fn pause(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn header(&self, name: String) -> Option<String> {
        let context = Context::current();
        context
            .header(&name)
            .and_then(|value| value.as_str().map(str::to_owned))
    }

    async fn names(&self) -> BTreeMap<(u8, u8), String> {
        BTreeMap::from([((1, 2), "hare".to_owned())])
    }

    async fn bytes(&self) -> Vec<u8> {
        vec![0, 255]
    }

    async fn large(&self) -> u128 {
        u128::from(u64::MAX) + 1
    }

    async fn aside(&self, text: String) -> String {
        text
    }

    async fn tell(&self, _: String) {}

    fn count(&self, to: u64) -> impl Stream<Item = u64> {
        let begun = self.watched.begin();
        stream::iter(1..=to).inspect(move |_| {
            let _alive = &begun;
        })
    }

    fn pages(&self, to: u64) -> impl Stream<Item = String> {
        let (begun, made) = (self.watched.begin(), self.watched.made.clone());
        stream::iter(1..=to).map(move |number| {
            let _alive = &begun;
            made.send_replace(number);
            format!("{number:01000}")
        })
    }

    fn once(&self, n: u64) -> impl Stream<Item = u64> {
        let begun = self.watched.begin();
        stream::iter([n])
            .chain(stream::pending())
            .inspect(move |_| {
                let _alive = &begun;
            })
    }

    fn fail(&self, dividend: i64) -> impl Stream<Item = Result<i64, DivideByZero>> {
        stream::iter([Ok(dividend), Err(DivideByZero { dividend })])
    }
}

/// A workshop that is served in the namespace of a test.
pub(crate) struct Served {
    pub(crate) connection: lepus::Connection,
    pub(crate) watched: Watched,
    running: Running,
}

impl Served {
    pub(crate) async fn start(env: &Env) -> Self {
        for queue in ["workshop", "workshop.aside"] {
            // To be deleted at the end of the test.
            let _ = env.name(queue);
        }
        let connection = env.connect().await;
        let bench = Bench::default();
        let watched = bench.watched.clone();
        let server = Server::new(&connection).serve(WorkshopServer::new(bench).concurrency(8));
        let running = server.start().await.expect("the server starts");
        let served = Self {
            connection,
            watched,
            running,
        };
        served.until_found(env).await;
        served
    }

    /// An instance is found a moment after its start.
    async fn until_found(&self, env: &Env) {
        let asker = env.connect().await;
        let discovery = lepus::Discovery::new(&asker);
        lepus_tests::eventually("found", || async {
            let pongs = discovery.ping().of("workshop").expect(1).await;
            pongs.is_ok_and(|pongs| !pongs.is_empty())
        })
        .await;
        asker.close().await;
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("the server stops");
        self.connection.close().await;
    }
}
