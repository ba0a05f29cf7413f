//! Calls that fail at once if nobody can take them.

use super::LONG;
use lepus::amqp::QueueOptions;
use lepus::{CallError, Code, Outcome, Server};
use lepus_broker::Broker;
use lepus_tests::gate::Gate;
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const HOUR: Duration = Duration::from_secs(60 * 60);

conformance!(
    a_queue_without_a_consumer_is_unserved,
    a_method_may_require_a_consumer,
    a_one_way_call_is_unserved,
    a_call_waits_for_a_restart_within_its_grace,
    an_absence_longer_than_the_grace_is_unserved,
    a_missing_queue_is_unroutable_as_ever,
    a_full_queue_answers_at_once,
    calls_of_a_served_queue_are_as_ever,
);

#[lepus::service(name = "desk")]
trait Desk {
    async fn ask(&self, n: u64) -> u64;
    #[rpc(idempotent)]
    async fn ask_again(&self, n: u64) -> u64;
    #[rpc(require_consumer)]
    async fn ask_somebody(&self, n: u64) -> u64;
    #[rpc(oneway)]
    async fn tell(&self, n: u64);
    async fn wait(&self);
}

#[derive(Default)]
struct DeskService {
    gate: Arc<Gate>,
}

impl Desk for DeskService {
    async fn ask(&self, n: u64) -> u64 {
        n
    }

    async fn ask_again(&self, n: u64) -> u64 {
        n
    }

    async fn ask_somebody(&self, n: u64) -> u64 {
        n
    }

    async fn tell(&self, _: u64) {}

    async fn wait(&self) {
        self.gate.pass().await;
    }
}

/// The call ends long before its deadline, unserved, and names the queue.
async fn is_unserved<T, E>(call: impl IntoFuture<Output = Result<T, CallError<E>>>, queue: &str)
where
    T: std::fmt::Debug,
    E: std::fmt::Debug,
{
    let result = timeout(LONG, call.into_future()).await.expect("at once");
    let error = match result.expect_err("nobody is there") {
        CallError::Rpc(error) => error,
        own @ CallError::Service(_) => panic!("{own:?}"),
    };
    assert!(error.is_unserved() && !error.is_timeout(), "{error:?}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    assert!(!error.may_have_executed());
    assert_eq!(error.grpc_code(), Code::Unavailable);
    assert!(error.to_string().contains(queue), "{error}");
}

async fn a_queue_without_a_consumer_is_unserved(env: Env) {
    let queue = env.name("desk");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&queue).await;
    let connection = env.connect().await;
    let desk = DeskClient::builder(&connection).fail_fast().build();
    is_unserved(desk.ask(1).timeout(HOUR), &queue).await;
    is_unserved(desk.ask_again(1).timeout(HOUR), &queue).await;
    let plain = DeskClient::new(&connection);
    is_unserved(plain.ask(1).timeout(HOUR).fail_fast(), &queue).await;
    // Others wait in the queue, and those above are not there.
    let pending = plain.ask(7).timeout(HOUR).send().await.unwrap();
    raw.until_messages(&queue, 1).await;
    let server = Server::new(&connection).serve(DeskServer::new(DeskService::default()));
    let _server = server.start().await.unwrap();
    assert_eq!(pending.await.unwrap(), 7);
    // The next look finds the server.
    eventually("it is served", || async { desk.ask(8).await }).await;
}

async fn a_method_may_require_a_consumer(env: Env) {
    let queue = env.name("desk");
    Raw::open(&env.uri).await.declare(&queue).await;
    let connection = env.connect().await;
    let desk = DeskClient::new(&connection);
    assert!(DeskClient::DESCRIPTOR.methods()[2].requires_consumer());
    is_unserved(desk.ask_somebody(1).timeout(HOUR), &queue).await;
}

async fn a_one_way_call_is_unserved(env: Env) {
    let queue = env.name("desk");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&queue).await;
    let connection = env.connect().await;
    let desk = DeskClient::new(&connection);
    is_unserved(desk.tell(1).timeout(HOUR).fail_fast(), &queue).await;
    assert_eq!(raw.count(&queue).await.messages, 0);
}

async fn a_call_waits_for_a_restart_within_its_grace(env: Env) {
    let queue = env.name("desk");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&queue).await;
    let connection = env.connect().await;
    let desk = DeskClient::builder(&connection)
        .fail_fast_after(HOUR)
        .build();
    let waiting = tokio::spawn(desk.ask(7).timeout(HOUR).into_future());
    // It has looked, and found nobody.
    is_unserved(desk.ask(1).timeout(HOUR).fail_fast(), &queue).await;
    assert_eq!(raw.count(&queue).await.messages, 0, "it is not sent");
    let server = Server::new(&connection).serve(DeskServer::new(DeskService::default()));
    let _server = server.start().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 7);
}

async fn an_absence_longer_than_the_grace_is_unserved(env: Env) {
    let queue = env.name("desk");
    Raw::open(&env.uri).await.declare(&queue).await;
    let connection = env.connect().await;
    let grace = Duration::from_millis(100);
    let desk = DeskClient::builder(&connection)
        .fail_fast_after(grace)
        .build();
    is_unserved(desk.ask(1).timeout(HOUR), &queue).await;
    // The absence goes on.
    is_unserved(desk.ask(1).timeout(HOUR), &queue).await;
}

async fn a_missing_queue_is_unroutable_as_ever(env: Env) {
    let connection = env.connect().await;
    let desk = DeskClient::builder(&connection).fail_fast().build();
    let error = desk.ask(1).timeout(HOUR).await.unwrap_err();
    assert!(error.is_unroutable(), "{error:?}");
    let error = desk.tell(1).timeout(HOUR).await.unwrap_err();
    assert!(error.is_unroutable(), "{error:?}");
}

/// One request runs, and one waits: the queue is full.
async fn a_full_queue_answers_at_once(env: Env) {
    let queue = env.name("desk");
    let connection = env.connect().await;
    let service = DeskService::default();
    let gate = Arc::clone(&service.gate);
    let service = DeskServer::new(service).queue_options(QueueOptions::new().max_length(1));
    let server = Server::new(&connection)
        .serve(service)
        .start()
        .await
        .unwrap();
    let desk = DeskClient::builder(&connection).fail_fast().build();
    let running = desk.wait().timeout(HOUR).send().await.unwrap();
    gate.entered(1).await;
    let waiting = desk.ask(1).timeout(HOUR).send().await.unwrap();
    Raw::open(&env.uri).await.until_messages(&queue, 1).await;
    let refused = timeout(LONG, desk.ask(2).timeout(HOUR).into_future());
    let error = refused.await.expect("at once").unwrap_err();
    assert!(error.is_rejected(), "{error:?}");
    assert_eq!(error.grpc_code(), Code::ResourceExhausted);
    assert_eq!(error.outcome(), Some(Outcome::Rejected));
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains(&queue), "{error}");
    gate.open_for_good();
    running.await.unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
    eventually("there is room again", || async { desk.ask(3).await }).await;
    server.stop().await.unwrap();
}

async fn calls_of_a_served_queue_are_as_ever(env: Env) {
    env.name("desk");
    let connection = env.connect().await;
    let server =
        Server::new(&connection).serve(DeskServer::new(DeskService::default()).concurrency(8));
    let server = server.start().await.unwrap();
    let desk = DeskClient::builder(&connection)
        .fail_fast()
        .coalesce(16)
        .build();
    let calls = (0..100).map(|n| desk.ask(n).into_future());
    let values = futures_util::future::try_join_all(calls).await.unwrap();
    assert_eq!(values, (0..100).collect::<Vec<_>>());
    desk.tell(1).await.unwrap();
    server.stop().await.unwrap();
}

/// A channel of its own for each look: the broker counts how many were opened.
#[tokio::test(flavor = "multi_thread")]
async fn all_calls_of_a_queue_share_a_look() {
    let broker = Broker::start().await.unwrap();
    let raw = Raw::open(&broker.uri()).await;
    raw.declare("desk").await;
    let proxy = lepus_tests::proxy::Proxy::start(&broker.uri()).await;
    let connection = lepus::Connection::open(proxy.uri()).await.unwrap();
    let server = lepus::Connection::open(&broker.uri()).await.unwrap();
    let _server = Server::new(&server)
        .serve(DeskServer::new(DeskService::default()).concurrency(64))
        .start()
        .await
        .unwrap();
    let desk = DeskClient::builder(&connection).fail_fast().build();
    let other = DeskClient::builder(&connection).fail_fast().build();
    desk.ask(0).await.unwrap();
    let tap = proxy.tap();
    let started = tokio::time::Instant::now();
    for _ in 0..10 {
        let calls = (0..100).map(|n| {
            if n % 2 == 0 {
                desk.ask(n)
            } else {
                other.ask(n)
            }
        });
        let calls = calls.map(IntoFuture::into_future);
        futures_util::future::try_join_all(calls).await.unwrap();
    }
    // One look a second is the rule, so a slow machine may make more of them.
    let seconds = started.elapsed().as_secs() + 1;
    let looks = tap
        .chunks()
        .iter()
        .map(|chunk| looks(&chunk.bytes))
        .sum::<u64>();
    assert!(looks <= seconds + 1, "{looks} in {seconds} s");
    raw.close().await;
}

/// The passive declarations of the queue `desk` among these bytes: class 50, method 10, a reserved short, the name.
fn looks(bytes: &[u8]) -> u64 {
    let declare = b"\x00\x32\x00\x0a\x00\x00\x04desk";
    let found = bytes.windows(declare.len()).filter(|it| *it == declare);
    u64::try_from(found.count()).unwrap()
}
