//! Permissions of users: the patterns in the book's page on operating are enough for each kind of
//! program, and they are all that it has.

use lepus::{Connection, Discovery, Job, RetryPolicy, Server, Topic, WorkQueue, retry};
use lepus_tests::deadline;
use lepus_tests::eventually::{eventually, within};
use lepus_tests::node::{self, Node};
use lepus_tests::source::workspace;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(400);

#[lepus::service]
trait Calculator {
    async fn double(&self, n: u64) -> u64;
    /// Does not end by itself.
    async fn hold(&self);
}

struct CalculatorService;

impl Calculator for CalculatorService {
    async fn double(&self, n: u64) -> u64 {
        2 * n
    }

    async fn hold(&self) {
        std::future::pending().await
    }
}

/// The rows of the book's table: the kind of program, and its patterns to configure, write and read.
fn rows() -> Vec<[String; 4]> {
    let path = workspace().join("book/src/operating.md");
    let page = std::fs::read_to_string(path).expect("the page on operating");
    let (_, table) = page
        .split_once("| a program that | configure | write | read |\n|---|---|---|---|\n")
        .expect("the table of permissions");
    let rows = table.lines().take_while(|line| line.starts_with("| "));
    rows.map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        let mut cells = cells.map(|cell| cell.trim().replace("\\|", "|"));
        let kind = cells.next().unwrap_or_default();
        let [configure, write, read] =
            [(); 3].map(|()| cells.next().unwrap_or_default().replace('`', ""));
        [kind, configure, write, read]
    })
    .collect()
}

/// The row that begins with `kind`.
fn row<'a>(rows: &'a [[String; 4]], kind: &str) -> &'a [String; 4] {
    let mut rows = rows.iter();
    let found = rows.find(|row| row[0].starts_with(kind));
    found.unwrap_or_else(|| panic!("no row {kind:?}"))
}

/// A connection of a user with the permissions of the row that begins with `kind`.
async fn connect(node: &Node, rows: &[[String; 4]], kind: &str) -> Connection {
    connect_as(node, row(rows, kind)).await
}

/// A connection of a user with the permissions of two rows.
async fn connect_both(node: &Node, rows: &[[String; 4]], kinds: [&str; 2]) -> Connection {
    let [first, second] = kinds.map(|kind| row(rows, kind));
    let mut both = [const { String::new() }; 4];
    for (at, pattern) in both.iter_mut().enumerate().skip(1) {
        *pattern = format!("({})|({})", first[at], second[at]);
    }
    connect_as(node, &both).await
}

async fn connect_as(node: &Node, row: &[String; 4]) -> Connection {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let user = format!("user{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let [_, configure, write, read] = row;
    node.ctl(&["add_user", &user, "secret"]).await;
    node.ctl(&["set_permissions", &user, configure, write, read])
        .await;
    let uri = node
        .uri()
        .replace("guest:guest@", &format!("{user}:secret@"));
    Connection::open(&uri).await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_patterns_of_the_book_are_enough() {
    let name = "the_patterns_of_the_book_are_enough";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let node = Node::start().await;
        let rows = rows();
        assert_eq!(rows.len(), 9, "{rows:?}");
        let calling = calls(&node, &rows).await;
        discovery(&node, &rows, &calling).await;
        jobs(&node, &rows).await;
        events(&node, &rows).await;
    })
    .await;
}

/// Gives the connection that calls.
async fn calls(node: &Node, rows: &[[String; 4]]) -> Connection {
    let serving = connect(node, rows, "serves").await;
    let calling = connect(node, rows, "calls").await;
    let service = CalculatorServer::new(CalculatorService);
    let server = Server::new(&serving).serve(service).start().await.unwrap();
    let calculator = CalculatorClient::new(&calling);
    assert_eq!(calculator.double(21).await.unwrap(), 42);
    // And no more than that: a caller cannot take requests.
    let service = CalculatorServer::new(CalculatorService);
    let refused = Server::new(&calling).serve(service).start().await;
    assert_eq!(refused.unwrap_err().amqp_code(), Some(403));
    server.stop().await.unwrap();
    calling
}

/// A program that serves and is found has the union of two rows.
async fn discovery(node: &Node, rows: &[[String; 4]], calling: &Connection) {
    let serving = connect_both(node, rows, ["serves", "is found"]).await;
    let service = CalculatorServer::new(CalculatorService).concurrency(4);
    let server = Server::new(&serving).serve(service).start().await.unwrap();
    let asking = connect(node, rows, "asks").await;
    let discovery = Discovery::new(&asking);
    eventually("the service is found", || async {
        let found = discovery.info("calculator").expect(1).await.unwrap();
        found.len() == 1
    })
    .await;
    let found = discovery.services().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].endpoints[0].name, "double");
    dropped_calls(node, rows, &serving, calling).await;
    server.stop().await.unwrap();
}

/// A program that calls, and tells of calls that it drops, has the union of two rows. One that may not tell drops them
/// all the same.
async fn dropped_calls(
    node: &Node,
    rows: &[[String; 4]],
    serving: &Connection,
    calling: &Connection,
) {
    let telling = connect_both(node, rows, ["calls", "tells"]).await;
    let figures = || {
        let mut methods = serving.stats_by_method().into_iter();
        let hold = methods.find(|method| method.method == "hold");
        hold.map(|hold| (hold.in_flight, hold.cancelled, hold.stopped))
    };
    for (calling, timeout, ended) in [(&telling, LONG, (0, 1, 0)), (calling, SECOND, (0, 1, 1))] {
        let calculator = CalculatorClient::new(calling);
        let held = calculator.hold().timeout(timeout).send().await.unwrap();
        eventually("it runs", || async {
            figures().is_some_and(|(in_flight, _, stopped)| in_flight + stopped > 0)
        })
        .await;
        drop(held);
        eventually("it has ended", || async {
            let figures = figures();
            if figures == Some(ended) {
                Ok(())
            } else {
                Err(format!("{figures:?}"))
            }
        })
        .await;
        assert_eq!(calculator.double(21).await.unwrap(), 42);
    }
}

async fn jobs(node: &Node, rows: &[[String; 4]]) {
    let connection = connect(node, rows, "pushes").await;
    let policy = RetryPolicy::default().attempts(2).backoff(SHORT, SHORT);
    let queue = WorkQueue::<u32>::new("resize").retry(policy);
    let producer = queue.producer(&connection);
    producer.push(&1).await.unwrap();
    producer.push(&2).delay(SHORT).await.unwrap();
    let fail = async |_: Job<u32>| Err::<(), _>(retry("in vain"));
    let pool = queue.worker(&connection).start(fail).await.unwrap();
    let dead = queue.dead_letters(&connection);
    within("both jobs are dead letters", LONG, || async {
        dead.count().await.is_ok_and(|count| count == 2)
    })
    .await;
    pool.stop().await.unwrap();
    assert_eq!(dead.replay().await.unwrap(), 2);
}

async fn events(node: &Node, rows: &[[String; 4]]) {
    let publishing = connect(node, rows, "publishes").await;
    let subscribing = connect(node, rows, "subscribes").await;
    let member = connect(node, rows, "is in the group").await;
    let orders = Topic::<u32>::new("orders");
    let publisher = orders.publisher(&publishing);
    publisher.declare().await.unwrap();
    let broadcast = orders.subscribe(&subscribing).bind("placed");
    let mut broadcast = broadcast.stream().await.unwrap();
    let policy = RetryPolicy::default().backoff(SHORT, SHORT);
    let audit = orders.subscribe(&member).bind("placed").singleton("audit");
    let mut audit = audit.retry(policy).stream().await.unwrap();
    publisher.publish("placed", &7).mandatory().await.unwrap();
    assert_eq!(*broadcast.next().await.unwrap().unwrap().payload(), 7);
    audit.next().await.unwrap().unwrap().retry("once more");
    let event = audit.next().await.unwrap().unwrap().ack();
    assert_eq!((*event.payload(), event.attempt()), (7, 2));
    broadcast.close().await.unwrap();
    audit.close().await.unwrap();
}
