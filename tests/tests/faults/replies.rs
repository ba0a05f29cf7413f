//! Replies that the broker refuses: larger than its `max_message_size`, or from a server that may
//! not write. Each on the embedded broker and on a RabbitMQ node of its own, which the tests share
//! one after the other.

use lepus::{Code, Connection, Server};
use lepus_broker::Broker;
use lepus_tests::deadline;
use lepus_tests::eventually;
use lepus_tests::gate::Gate;
use lepus_tests::log::Log;
use lepus_tests::node::{self, Node};
use lepus_tests::peer::short;
use lepus_tests::raw::Raw;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For a node that starts, and what is tried on it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// The broker's `max_message_size`, in bytes.
const LARGEST: usize = 100_000;
const LONG: Duration = Duration::from_secs(30);
/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);

#[lepus::service(name = "archive")]
trait Archive {
    /// So many bytes.
    #[rpc(idempotent)]
    async fn fetch(&self, id: u32, bytes: usize) -> String;
    /// Waits at the gate.
    #[rpc(idempotent)]
    async fn hold(&self, id: u32) -> u32;
    /// Waits at the gate, then so many bytes.
    #[rpc(idempotent)]
    async fn hold_large(&self, id: u32, bytes: usize) -> String;
    /// Acknowledged before it runs, and waits at the gate.
    #[rpc(at_most_once)]
    async fn hold_once(&self, id: u32) -> u32;
}

#[derive(Default)]
struct Shelves {
    gate: Gate,
    runs: Mutex<Vec<u32>>,
}

impl Shelves {
    fn ran(&self, id: u32) {
        self.runs.lock().unwrap().push(id);
    }

    fn runs(&self, id: u32) -> usize {
        let runs = self.runs.lock().unwrap();
        runs.iter().filter(|run| **run == id).count()
    }
}

impl Archive for Shelves {
    async fn fetch(&self, id: u32, bytes: usize) -> String {
        self.ran(id);
        "x".repeat(bytes)
    }

    async fn hold(&self, id: u32) -> u32 {
        self.ran(id);
        self.gate.pass().await;
        id
    }

    async fn hold_large(&self, id: u32, bytes: usize) -> String {
        self.ran(id);
        self.gate.pass().await;
        "x".repeat(bytes)
    }

    async fn hold_once(&self, id: u32) -> u32 {
        self.ran(id);
        self.gate.pass().await;
        id
    }
}

/// A broker that takes no message above [`LARGEST`].
enum Place {
    Embedded(Broker),
    Node(Node),
}

impl Place {
    async fn embedded() -> Place {
        let broker = Broker::builder().max_message(LARGEST).start().await;
        Place::Embedded(broker.unwrap())
    }

    async fn node() -> Place {
        let limit = format!("max_message_size = {LARGEST}");
        let node = Node::setup().config(&limit).start().await;
        node.ctl(&["add_user", "reader", "reader"]).await;
        node.ctl(&["set_permissions", "reader", ".*", "^$", ".*"])
            .await;
        Place::Node(node)
    }

    fn uri(&self) -> String {
        match self {
            Place::Embedded(broker) => broker.uri(),
            Place::Node(node) => node.uri().to_owned(),
        }
    }

    /// A server's connection whose user may not publish.
    async fn without_write(&self, namespace: &str) -> Connection {
        let builder = |uri: &str| {
            let builder = Connection::builder(uri)
                .namespace(namespace)
                .name(namespace);
            builder.backoff(Duration::from_millis(10), Duration::from_millis(100))
        };
        match self {
            Place::Embedded(broker) => builder(&broker.uri()).open().await.unwrap(),
            Place::Node(node) => {
                let uri = node.uri().replace("guest:guest", "reader:reader");
                builder(&uri).open().await.unwrap()
            }
        }
    }
}

/// A server and a client over connections of their own.
struct ArchiveFixture {
    uri: String,
    queue: String,
    subject: Arc<Shelves>,
    archive: ArchiveClient,
    serving: Connection,
    calling: Connection,
    _server: lepus::Running,
}

impl ArchiveFixture {
    async fn start(place: &Place, namespace: &str, concurrency: u16) -> ArchiveFixture {
        let serving = connect(place, namespace).await;
        ArchiveFixture::over(place, namespace, serving, concurrency).await
    }

    async fn over(
        place: &Place,
        namespace: &str,
        serving: Connection,
        concurrency: u16,
    ) -> ArchiveFixture {
        let subject = Arc::new(Shelves::default());
        let server = serve(&serving, &subject, concurrency).await;
        let calling = connect(place, namespace).await;
        ArchiveFixture {
            uri: place.uri(),
            queue: format!("{namespace}.archive"),
            archive: ArchiveClient::builder(&calling).timeout(LONG).build(),
            subject,
            serving,
            calling,
            _server: server,
        }
    }

    /// Nothing is left in the queue, and the server has answered all it took.
    async fn is_settled(&self) {
        let raw = Raw::open(&self.uri).await;
        eventually("nothing unsettled", || async {
            let unsettled = self.serving.stats().unsettled;
            if unsettled == 0 {
                Ok(())
            } else {
                Err(unsettled)
            }
        })
        .await;
        raw.until_messages(&self.queue, 0).await;
        raw.close().await;
    }

    async fn logged(&self, texts: &[&str]) {
        log()
            .line_with(&[&["ERROR", &self.queue], texts].concat())
            .await;
    }
}

async fn connect(place: &Place, namespace: &str) -> Connection {
    let builder = Connection::builder(&place.uri()).namespace(namespace);
    let soon = builder.backoff(Duration::from_millis(10), Duration::from_millis(100));
    soon.open().await.unwrap()
}

async fn serve(serving: &Connection, subject: &Arc<Shelves>, concurrency: u16) -> lepus::Running {
    Server::new(serving)
        .serve(ArchiveServer::from_arc(Arc::clone(subject)).concurrency(concurrency))
        .start()
        .await
        .unwrap()
}

/// The log of all tests of this process; each looks for its own queue in it.
fn log() -> Log {
    Log::capture("lepus=warn")
}

async fn a_reply_over_the_limit_is_told_and_runs_once(place: &Place) {
    let fixture = ArchiveFixture::start(place, "told", 1).await;
    let error = fixture.archive.fetch(1, 2 * LARGEST).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    assert!(error.to_string().contains("100000"), "{error}");
    assert_eq!(fixture.subject.runs(1), 1);
    fixture
        .logged(&["archive", "fetch", "is larger than"])
        .await;
    // The limit is known from now on: the channel stays.
    let before = log().text().len();
    let error = fixture.archive.fetch(2, LARGEST).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    assert!(error.to_string().contains("the limit is 100000"), "{error}");
    assert!(!log().text()[before..].contains("told.archive\" error"));
    assert_eq!(fixture.subject.runs(2), 1);
    let text = fixture.archive.fetch(3, LARGEST / 2).await.unwrap();
    assert_eq!(text.len(), LARGEST / 2);
    assert_eq!(fixture.subject.runs(3), 1);
    fixture.is_settled().await;
}

async fn the_neighbours_of_a_refused_reply_are_answered(place: &Place) {
    let fixture = ArchiveFixture::start(place, "neighbours", 20).await;
    let mut held = Vec::new();
    for id in 1..=5 {
        held.push(fixture.archive.hold(id).send().await.unwrap());
    }
    let once = fixture.archive.hold_once(6).send().await.unwrap();
    // Several at once, none of which knows the limit.
    let mut large = Vec::new();
    for id in 11..=14 {
        large.push(
            fixture
                .archive
                .hold_large(id, 2 * LARGEST)
                .send()
                .await
                .unwrap(),
        );
    }
    fixture.subject.gate.entered(10).await;
    fixture.subject.gate.open_for_good();
    let quick = (21..=60).map(|id| fixture.archive.fetch(id, 10));
    let quick = futures_util::future::join_all(quick.map(|call| async { call.await })).await;
    for reply in quick {
        assert_eq!(reply.unwrap().len(), 10);
    }
    for (id, call) in (1..).zip(held) {
        assert_eq!(call.await.unwrap(), id);
    }
    assert_eq!(once.await.unwrap(), 6);
    for call in large {
        let error = call.await.unwrap_err();
        assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    }
    for id in (1..=5).chain(11..=14).chain(21..=60) {
        let runs = fixture.subject.runs(id);
        assert!((1..=2).contains(&runs), "{id} ran {runs} times");
    }
    assert_eq!(fixture.subject.runs(6), 1, "at most once");
    fixture.is_settled().await;
}

async fn a_caller_that_is_gone_and_never_expires_is_run_once(place: &Place) {
    let fixture = ArchiveFixture::start(place, "gone", 1).await;
    let raw = Raw::open(&fixture.uri).await;
    let properties = lapin::BasicProperties::default()
        .with_type("hold_large".into())
        .with_content_type("application/json".into())
        .with_correlation_id("7".into())
        .with_reply_to(short("gone.nobody"));
    let body = br#"{"id":7,"bytes":200000}"#;
    let sent = raw.publish_with("", &fixture.queue, body, properties).await;
    sent.unwrap();
    raw.close().await;
    fixture.subject.gate.entered(1).await;
    fixture.subject.gate.open_for_good();
    fixture
        .logged(&["archive", "hold_large", "is larger than"])
        .await;
    assert_eq!(fixture.archive.fetch(8, 10).await.unwrap().len(), 10);
    fixture.is_settled().await;
    assert_eq!(fixture.subject.runs(7), 1);
}

/// Each knows nothing of what the others have learned.
async fn no_server_of_many_runs_a_refused_request_a_third_time(place: &Place) {
    let fixture = ArchiveFixture::start(place, "many", 1).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let serving = connect(place, "many").await;
        let server = serve(&serving, &fixture.subject, 1).await;
        others.push((serving, server));
    }
    for id in 1..=8 {
        let error = fixture.archive.fetch(id, 2 * LARGEST).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    }
    for id in 1..=8 {
        let runs = fixture.subject.runs(id);
        assert!((1..=2).contains(&runs), "{id} ran {runs} times");
    }
    fixture.is_settled().await;
}

/// One that fits by itself, and does not with what a message of several replies adds to it.
async fn a_shared_reply_is_held_against_the_limit_with_what_it_adds(place: &Place) {
    let fixture = ArchiveFixture::start(place, "shared", 16).await;
    let archive = ArchiveClient::builder(&fixture.calling)
        .timeout(LONG)
        .coalesce(64)
        .build();
    // It asks whether calls may share messages.
    assert_eq!(archive.fetch(0, 1).await.unwrap().len(), 1);
    let fits = LARGEST - 10;
    for round in 0..2 {
        let first = 10 * (round + 1);
        let calls = (first..first + 4).map(|id| {
            let call = archive.fetch(id, if id == first { fits } else { 10 });
            async move { call.await }
        });
        let replies = futures_util::future::join_all(calls).await;
        for (id, reply) in (first..).zip(replies) {
            let runs = fixture.subject.runs(id);
            assert!((1..=2).contains(&runs), "{id} ran {runs} times");
            match reply {
                Ok(text) => assert_eq!(text.len(), if id == first { fits } else { 10 }),
                Err(error) => {
                    assert_eq!(id, first, "{error}");
                    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
                }
            }
        }
    }
    fixture.is_settled().await;
}

async fn a_server_without_the_permission_to_write_runs_each_request_once(place: &Place) {
    let serving = place.without_write("unheard").await;
    let fixture = ArchiveFixture::over(place, "unheard", serving, 2).await;
    if let Place::Embedded(broker) = place {
        let ours = broker.connections().into_iter().filter(|connection| {
            let name = connection.name.as_deref();
            name.is_some_and(|name| name.starts_with("unheard"))
        });
        let denied = ours.map(|connection| broker.faults().deny_writes(connection.id, true));
        assert!(denied.sum::<usize>() > 0);
    }
    let raw = Raw::open(&fixture.uri).await;
    // Without an expiration: nothing but an acknowledgement ends it.
    for id in 1..=3 {
        let properties = lapin::BasicProperties::default()
            .with_type("fetch".into())
            .with_content_type("application/json".into())
            .with_correlation_id(short(&id.to_string()))
            .with_reply_to(short("unheard.nobody"));
        let body = format!(r#"{{"id":{id},"bytes":10}}"#);
        let sent = raw.publish_with("", &fixture.queue, body.as_bytes(), properties);
        sent.await.unwrap();
    }
    fixture
        .logged(&["archive", "fetch", "ACCESS_REFUSED"])
        .await;
    let error = fixture
        .archive
        .fetch(4, 10)
        .timeout(FAIR)
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
    eventually("all of them", || async {
        (1..=4).all(|id| fixture.subject.runs(id) > 0)
    })
    .await;
    fixture.is_settled().await;
    for id in 1..=4 {
        let runs = fixture.subject.runs(id);
        assert!((1..=2).contains(&runs), "{id} ran {runs} times");
    }
    assert_eq!((fixture.subject.runs(1), fixture.subject.runs(4)), (1, 1));
    raw.close().await;
}

macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::log();
                super::deadline::within(stringify!($test), super::LIMIT, async {
                    super::$test(&super::Place::embedded().await).await;
                })
                .await;
            })+
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn rabbitmq() {
            let name = "faults::replies::rabbitmq";
            if !node::are_available(name) {
                return;
            }
            log();
            deadline::within(name, LIMIT, async {
                let place = Place::node().await;
                $($test(&place).await;)+
            })
            .await;
        }
    };
}

on_both!(
    a_reply_over_the_limit_is_told_and_runs_once,
    the_neighbours_of_a_refused_reply_are_answered,
    a_caller_that_is_gone_and_never_expires_is_run_once,
    no_server_of_many_runs_a_refused_request_a_third_time,
    a_shared_reply_is_held_against_the_limit_with_what_it_adds,
    a_server_without_the_permission_to_write_runs_each_request_once,
);
