//! Producers that are written with `async_stream` or by hand: `?` ends the stream as the method's own error, and the stream
//! borrows the implementation.

use super::{code, read};
use async_stream::{stream, try_stream};
use futures_util::stream::Stream;
use lepus::rpc::StreamCall;
use lepus::{Code, Server, Status};
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Mutex;

conformance!(
    a_producer_ends_by_its_own_error,
    a_producer_by_hand_ends_by_its_own_error,
    a_producer_ends_by_a_status,
    a_producer_borrows_its_service,
);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OutOfPaper {
    page: u64,
}

impl From<std::num::TryFromIntError> for OutOfPaper {
    fn from(_: std::num::TryFromIntError) -> Self {
        Self { page: u64::MAX }
    }
}

#[lepus::service(name = "press")]
trait Press {
    /// Pages until there is no paper.
    fn pages(&self, from: i64) -> impl Stream<Item = Result<u64, OutOfPaper>>;
    /// The same, by hand.
    fn sheets(&self, from: i64) -> impl Stream<Item = Result<u64, OutOfPaper>>;
    /// The same with a status.
    fn copies(&self) -> impl Stream<Item = Result<u64, Status>>;
    /// The jobs that wait, each taken under a lock of the service.
    fn jobs(&self, prefix: String) -> impl Stream<Item = String>;
}

struct Workshop {
    paper: u64,
    waiting: Mutex<Vec<String>>,
}

impl Workshop {
    async fn print(&self, page: u64) -> Result<u64, OutOfPaper> {
        tokio::task::yield_now().await;
        if page < self.paper {
            Ok(page)
        } else {
            Err(OutOfPaper { page })
        }
    }
}

/// A stream that is written by hand: the next page, until there is no paper.
struct Sheets<'a> {
    workshop: &'a Workshop,
    next: i64,
}

impl Sheets<'_> {
    fn print(&mut self) -> Result<u64, OutOfPaper> {
        let page = u64::try_from(self.next)?;
        self.next += 1;
        if page < self.workshop.paper {
            Ok(page)
        } else {
            Err(OutOfPaper { page })
        }
    }
}

impl Stream for Sheets<'_> {
    type Item = Result<u64, OutOfPaper>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let page = self.print()?;
        Poll::Ready(Some(Ok(page)))
    }
}

impl Press for Workshop {
    fn sheets(&self, from: i64) -> impl Stream<Item = Result<u64, OutOfPaper>> {
        let workshop = self;
        Sheets {
            workshop,
            next: from,
        }
    }

    fn pages(&self, from: i64) -> impl Stream<Item = Result<u64, OutOfPaper>> {
        try_stream! {
            let from = u64::try_from(from)?;
            for page in from.. {
                yield self.print(page).await?;
            }
        }
    }

    fn copies(&self) -> impl Stream<Item = Result<u64, Status>> {
        try_stream! {
            for page in 0.. {
                let printed = self.print(page).await;
                yield printed.map_err(|_| Status::new(Code::ResourceExhausted, "no paper"))?;
            }
        }
    }

    fn jobs(&self, prefix: String) -> impl Stream<Item = String> {
        stream! {
            while let Some(job) = self.waiting.lock().await.pop() {
                yield format!("{prefix}{job}");
            }
        }
    }
}

async fn serve(env: &Env) -> (lepus::Running, PressClient, lepus::Connection) {
    env.name("press");
    let workshop = Arc::new(Workshop {
        paper: 50,
        waiting: Mutex::new(vec!["third".into(), "second".into(), "first".into()]),
    });
    let (serving, calling) = (env.connect().await, env.connect().await);
    let server = Server::new(&serving).serve(PressServer::from_arc(workshop));
    let press = PressClient::new(&calling);
    (server.start().await.unwrap(), press, serving)
}

async fn is_at_rest(serving: &lepus::Connection) {
    eventually("no stream is open", || async {
        serving.stats().open_streams == 0
    })
    .await;
}

async fn a_producer_ends_by_its_own_error(env: Env) {
    pages_come_until_there_is_no_paper(&env, |press, from| press.pages(from)).await;
}

async fn a_producer_by_hand_ends_by_its_own_error(env: Env) {
    pages_come_until_there_is_no_paper(&env, |press, from| press.sheets(from)).await;
}

async fn pages_come_until_there_is_no_paper(
    env: &Env,
    ask: impl Fn(&PressClient, i64) -> StreamCall<u64, OutOfPaper>,
) {
    let (server, press, serving) = serve(env).await;
    for window in [1, 8, 100] {
        let pages = ask(&press, 0).window(window).await.unwrap();
        let (pages, error) = read(pages).await;
        assert!(pages.into_iter().eq(0..50), "window {window}");
        let error = error.unwrap();
        assert_eq!(error.service(), Some(&OutOfPaper { page: 50 }));
    }
    // Before the first item: the stream opens, and ends at once.
    let (none, error) = read(ask(&press, -1).await.unwrap()).await;
    let error = error.unwrap();
    assert_eq!(error.service(), Some(&OutOfPaper { page: u64::MAX }));
    assert!(none.is_empty());
    is_at_rest(&serving).await;
    server.stop().await.unwrap();
}

async fn a_producer_ends_by_a_status(env: Env) {
    let (server, press, _serving) = serve(&env).await;
    let (copies, error) = read(press.copies().window(3).await.unwrap()).await;
    assert!(copies.into_iter().eq(0..50));
    assert_eq!(code(error), Code::ResourceExhausted);
    server.stop().await.unwrap();
}

async fn a_producer_borrows_its_service(env: Env) {
    let (server, press, serving) = serve(&env).await;
    let mut jobs = press.jobs("the ".to_owned()).window(1).await.unwrap();
    assert_eq!(jobs.next().await.unwrap().unwrap(), "the first");
    drop(jobs);
    is_at_rest(&serving).await;
    // At most one more was taken for the stream that was dropped.
    let (jobs, error) = read(press.jobs("a ".to_owned()).await.unwrap()).await;
    assert!(error.is_none());
    assert!(matches!(jobs.len(), 1 | 2), "{jobs:?}");
    assert_eq!(jobs.last().map(String::as_str), Some("a third"));
    server.stop().await.unwrap();
}
