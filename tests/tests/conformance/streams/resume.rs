//! Streams that are opened again behind their last item after a loss.

use super::{LONG, SHORT};
use futures_util::stream::{self, Stream};
use lepus::rpc::{ResumedStream, resume};
use lepus::{CallError, Code, Connection, RetryPolicy, Running, Server, Status};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

conformance!(
    no_item_is_lost_or_doubled_by_lost_connections,
    it_goes_on_at_the_next_server,
    it_waits_for_a_broker_that_is_away,
    dropping_it_cancels_the_stream,
);

/// The method's own error.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Torn;

#[lepus::service(name = "journal")]
trait Journal {
    /// The numbers from this one on.
    fn entries(&self, from: u64) -> impl Stream<Item = Result<u64, Torn>>;
    /// As the script of the test says, which has an end for each opening.
    fn scripted(&self, from: u64) -> impl Stream<Item = Result<u64, Status>>;
}

#[derive(Default)]
struct Pages {
    openings: AtomicU64,
    /// The number of items and the end of each opening, the next one last.
    script: Mutex<Vec<(u64, Option<Status>)>>,
    /// The times of the openings.
    opened: Mutex<Vec<Instant>>,
}

impl Journal for Pages {
    fn entries(&self, from: u64) -> impl Stream<Item = Result<u64, Torn>> {
        self.openings.fetch_add(1, Ordering::SeqCst);
        stream::iter((from..).map(Ok))
    }

    fn scripted(&self, from: u64) -> impl Stream<Item = Result<u64, Status>> {
        self.opened.lock().unwrap().push(Instant::now());
        let (items, end) = self.script.lock().unwrap().pop().expect("an end");
        stream::iter((from..from + items).map(Ok).chain(end.map(Err)))
    }
}

type Entries<E, C, N> = ResumedStream<u64, u64, E, C, N>;

/// The entries of a journal, in their order.
fn entries(
    journal: JournalClient,
) -> Entries<Torn, impl FnMut(u64) -> lepus::rpc::StreamCall<u64, Torn>, impl FnMut(&u64) -> u64> {
    let call = move |from| journal.entries(from).window(16);
    resume(0, call, |number| number + 1)
}

async fn serve(connection: &Connection) -> Running {
    let service = JournalServer::new(Pages::default());
    let server = Server::new(connection).serve(service).start().await;
    server.unwrap_or_else(|error| panic!("{error}"))
}

async fn no_item_is_lost_or_doubled_by_lost_connections(env: Env) {
    env.name("journal");
    let (servers_link, serving) = env.proxied().await;
    let (clients_link, calling) = env.proxied().await;
    let server = serve(&serving).await;
    let mut entries = entries(JournalClient::new(&calling));
    for round in 0..12 {
        for number in 0..200 {
            let entry = entries.next().await.unwrap().unwrap();
            assert_eq!(entry, 200 * round + number);
        }
        let how = if round % 2 == 0 { Cut::Rst } else { Cut::Fin };
        match round % 3 {
            0 => servers_link.cut(how),
            1 => clients_link.cut(how),
            _ => servers_link.cut(how) + clients_link.cut(how),
        };
    }
    assert!(entries.openings() > 8, "{entries:?}");
    drop(entries);
    server.stop().await.unwrap();
}

async fn it_goes_on_at_the_next_server(env: Env) {
    env.name("journal");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let mut server = serve(&serving).await;
    let mut entries = entries(JournalClient::new(&calling));
    for round in 0..3 {
        for number in 0..50 {
            let entry = entries.next().await.unwrap().unwrap();
            assert_eq!(entry, 50 * round + number);
        }
        let next = serve(&serving).await;
        std::mem::replace(&mut server, next).stop().await.unwrap();
    }
    server.stop().await.unwrap();
}

async fn it_waits_for_a_broker_that_is_away(env: Env) {
    env.name("journal");
    let (proxy, serving) = env.proxied().await;
    let calling = env.connect_at(proxy.uri()).await;
    let _server = serve(&serving).await;
    let journal = JournalClient::new(&calling);
    let call = move |from| journal.entries(from).window(4).timeout(SHORT);
    let mut entries = resume(0, call, |number| number + 1);
    assert_eq!(entries.next().await.unwrap().unwrap(), 0);
    proxy.down().await;
    let reading = tokio::spawn(async move {
        let mut numbers = Vec::new();
        while numbers.len() < 100 {
            numbers.push(entries.next().await.unwrap().unwrap());
        }
        numbers
    });
    // It has tried in vain: the client is away, and a call ends by its time limit.
    let journal = JournalClient::new(&calling);
    eventually("a call ends by its limit", || async {
        let opened = journal.entries(0).timeout(2 * SHORT).await;
        opened.is_err_and(|error| error.is_timeout())
    })
    .await;
    assert!(!reading.is_finished());
    proxy.up().await;
    assert!(reading.await.unwrap().into_iter().eq(1..=100));
}

async fn dropping_it_cancels_the_stream(env: Env) {
    env.name("journal");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let server = serve(&serving).await;
    let mut entries = entries(JournalClient::new(&calling));
    entries.next().await.unwrap().unwrap();
    drop(entries);
    eventually("no stream is open", || async {
        serving.stats().open_streams + calling.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
}

/// Reads a scripted stream of an implementation in this process, whose clock the test has.
async fn scripted(
    script: &[(u64, Option<Status>)],
    policy: &RetryPolicy,
) -> (Vec<u64>, Option<CallError>, Vec<Duration>) {
    let pages = std::sync::Arc::new(Pages::default());
    *pages.script.lock().unwrap() = script.iter().rev().cloned().collect();
    let service = JournalServer::from_arc(std::sync::Arc::clone(&pages));
    let journal: JournalClient = lepus::rpc::ClientBuilder::local(service).build();
    let call = |from| journal.scripted(from);
    let mut entries = resume(0, call, |number| number + 1).retry(policy);
    let mut numbers = Vec::new();
    let error = loop {
        match entries.next().await {
            Some(Ok(number)) => numbers.push(number),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(entries.next().await.is_none());
    let opened = pages.opened.lock().unwrap();
    assert!(pages.script.lock().unwrap().is_empty(), "all of the script");
    let pauses = opened.windows(2).map(|pair| pair[1] - pair[0]);
    (numbers, error, pauses.collect())
}

fn status(code: Code) -> Option<Status> {
    Some(Status::new(code, "for a test"))
}

fn policy(attempts: u32) -> RetryPolicy {
    let second = Duration::from_secs(1);
    let policy = RetryPolicy::default().attempts(attempts).jitter(0.0);
    policy.backoff(second, 3 * second)
}

/// The seconds of pauses, which the clock of the test tells to the millisecond.
fn seconds(pauses: &[Duration]) -> Vec<u64> {
    pauses
        .iter()
        .map(|pause| (pause.as_millis() as u64 + 500) / 1000)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_after_unavailable_with_growing_pauses() {
    let away = status(Code::Unavailable);
    let later = Status::new(Code::Unavailable, "later").with_retry_after(LONG);
    let script = [
        (3, away.clone()),
        (0, away.clone()),
        (0, away.clone()),
        (0, away.clone()),
        // An item makes the pauses short again.
        (2, away),
        (0, Some(later)),
        (4, None),
    ];
    let (numbers, error, pauses) = scripted(&script, &policy(10)).await;
    assert!(numbers.into_iter().eq(0..9));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seconds(&pauses), [1, 2, 3, 3, 1, 30]);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_any_other_error_and_when_its_attempts_are_used_up() {
    let ended = async |script: &[(u64, Option<Status>)]| {
        let (numbers, error, _) = scripted(script, &policy(3)).await;
        let code = error.and_then(|error| error.rpc()?.code());
        (numbers.len(), code.expect("a status"))
    };
    for code in [Code::Internal, Code::Aborted, Code::ResourceExhausted] {
        assert_eq!(ended(&[(2, status(code))]).await, (2, code));
    }
    let away = || status(Code::Unavailable);
    let script = [(1, away()), (0, away()), (0, away())];
    assert_eq!(ended(&script).await, (1, Code::Unavailable));
    // Not used up by those before an item.
    let script = [
        (1, away()),
        (0, away()),
        (1, away()),
        (0, away()),
        (0, away()),
    ];
    assert_eq!(ended(&script).await, (2, Code::Unavailable));
}
