//! A cluster of three nodes under load, whose queue's leader is killed again and again: on demand,
//! by `tests/cluster`. `LEPUS_CLUSTER_ROUNDS` says how often.

use lepus::{Call, Connection, Server, WorkQueue, jobs::Producer};
use lepus_tests::cluster::Cluster;
use lepus_tests::deadline;
use lepus_tests::eventually::within;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
/// The longest time that a call or a push may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// To come back on a busy machine.
const LONG: Duration = Duration::from_secs(120);
const QUEUE: &str = "jobs";

/// Its queue has a member on each node.
#[lepus::service(name = "replicated", quorum)]
trait Replicated {
    async fn double(&self, number: u64) -> u64;
}

/// Its queue is on one node.
#[lepus::service(name = "single")]
trait Single {
    async fn double(&self, number: u64) -> u64;
}

struct Doubling;

impl Replicated for Doubling {
    async fn double(&self, number: u64) -> u64 {
        2 * number
    }
}

impl Single for Doubling {
    async fn double(&self, number: u64) -> u64 {
        2 * number
    }
}

/// The course of a fault, while calls and pushes go on all the time.
#[derive(Debug, Default)]
struct Recovery(Mutex<Course>);

#[derive(Debug, Default)]
struct Course {
    last: Option<Instant>,
    /// The longest time without a success, since the fault began.
    longest: Duration,
    /// When the fault was complete: what began later has to get by with it.
    fault: Option<Instant>,
    is_over: bool,
}

impl Recovery {
    fn fault_begins(&self) {
        let mut course = lock(&self.0);
        course.longest = Duration::ZERO;
        (course.fault, course.is_over) = (None, false);
    }

    fn fault_is_there(&self) {
        lock(&self.0).fault = Some(Instant::now());
    }

    fn success(&self, began: Instant) {
        let mut course = lock(&self.0);
        if let Some(last) = course.last.replace(Instant::now()) {
            course.longest = course.longest.max(last.elapsed());
        }
        course.is_over |= course.fault.is_some_and(|fault| began > fault);
    }

    /// Waits for a success; gives the longest time without.
    async fn over(&self, what: &str) -> Duration {
        within(what, LONG, || async {
            let course = lock(&self.0);
            course.is_over.then_some(course.longest)
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under a lock")
}

/// The numbers of jobs that were pushed and done, and of calls.
#[derive(Debug, Default)]
struct Books {
    over: AtomicBool,
    next: AtomicU64,
    confirmed: Mutex<BTreeSet<u64>>,
    unknown: Mutex<BTreeSet<u64>>,
    /// The errors that pushes were told instead of a confirm.
    refusals: Mutex<BTreeMap<String, u32>>,
    done: Mutex<BTreeMap<u64, u32>>,
    calls: Mutex<BTreeMap<String, u32>>,
    pushes: Recovery,
    replicated: Recovery,
    single: Recovery,
}

impl Books {
    fn number(&self) -> Option<u64> {
        let is_over = self.over.load(Ordering::SeqCst);
        (!is_over).then(|| self.next.fetch_add(1, Ordering::SeqCst))
    }

    fn called(&self, service: &str, reply: Result<u64, lepus::CallError>, number: u64) -> bool {
        let outcome = match reply {
            Ok(double) => {
                assert_eq!(double, 2 * number, "its own reply");
                "answered".to_owned()
            }
            Err(lepus::CallError::Rpc(error)) => {
                format!("{:?}", error.outcome().expect("an outcome"))
            }
            Err(lepus::CallError::Service(never)) => match never {},
        };
        let is_answered = outcome == "answered";
        let key = format!("{service}: {outcome}");
        *lock(&self.calls).entry(key).or_default() += 1;
        is_answered
    }
}

async fn connect(uri: String) -> Connection {
    let builder = Connection::builder(&uri).heartbeat(2 * SECOND);
    builder.open().await.expect("a connection to one of three")
}

async fn push(producer: Producer<u64>, books: Arc<Books>) {
    while let Some(first) = books.number() {
        let began = Instant::now();
        let batch: Vec<u64> = std::iter::once(first)
            .chain(std::iter::from_fn(|| books.number()).take(9))
            .collect();
        for (job, outcome) in batch.iter().zip(producer.push_all(&batch).await) {
            match outcome {
                Ok(()) => {
                    lock(&books.confirmed).insert(*job);
                    books.pushes.success(began);
                }
                Err(error) => {
                    if error.may_have_executed() {
                        lock(&books.unknown).insert(*job);
                    }
                    *lock(&books.refusals)
                        .entry(format!("{error:?}"))
                        .or_default() += 1;
                }
            }
        }
        // The pace of the load: nothing is waited for.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Calls one service, one call after the other.
async fn call(
    service: &'static str,
    double: impl Fn(u64) -> Call<u64>,
    recovery: impl Fn(&Books) -> &Recovery,
    pause: Duration,
    books: Arc<Books>,
) {
    while let Some(number) = books.number() {
        let began = Instant::now();
        let reply = double(number).timeout(TIMEOUT).await;
        if books.called(service, reply, number) {
            recovery(&books).success(began);
        }
        // The pace of the load.
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three nodes: tests/cluster"]
async fn the_leader_is_killed_and_no_confirmed_job_is_lost() {
    let rounds = std::env::var("LEPUS_CLUSTER_ROUNDS").ok();
    let rounds: u32 = rounds.map_or(3, |rounds| rounds.parse().expect("LEPUS_CLUSTER_ROUNDS"));
    let limit = 3 * LONG + rounds * LONG;
    let name = "the_leader_is_killed_and_no_confirmed_job_is_lost";
    deadline::within(name, limit, kill_leaders(rounds)).await;
}

async fn kill_leaders(rounds: u32) {
    let began = Instant::now();
    let cluster = Cluster::start(3).await;
    let version = cluster.nodes()[0].ctl(&["version"]).await;
    println!(
        "RabbitMQ {version}: three nodes after {:.1?}",
        began.elapsed()
    );
    let books = Arc::new(Books::default());
    let queue = WorkQueue::<u64>::new(QUEUE);
    // All of them on the node that will lead both queues, and be killed first.
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(connect(cluster.uri_from(0)).await);
    }
    let [producing, calling, serving, working, single] =
        <[_; 5]>::try_from(connections).expect("five");
    queue.declare(&producing).await.expect("the queue");
    cluster.is_whole(QUEUE).await;

    let server = Server::new(&serving).serve(ReplicatedServer::new(Doubling).concurrency(4));
    let _serving = server.start().await.expect("a server");
    let server = Server::new(&single).serve(SingleServer::new(Doubling));
    let _single = server.start().await.expect("a server");
    let handler = {
        let books = Arc::clone(&books);
        move |job: lepus::Job<u64>| {
            *lock(&books.done).entry(job.into_payload()).or_default() += 1;
            async { Ok::<(), lepus::jobs::JobError>(()) }
        }
    };
    let pool = queue.worker(&working).concurrency(8);
    let _working = pool.start(handler).await.expect("a pool");
    let mut crowd = JoinSet::new();
    for _ in 0..4 {
        let producer = queue.producer(&producing).timeout(TIMEOUT);
        crowd.spawn(push(producer, Arc::clone(&books)));
        let replicated = ReplicatedClient::new(&calling);
        let double = move |number| replicated.double(number);
        let (pause, books) = (Duration::from_millis(5), Arc::clone(&books));
        crowd.spawn(call(
            "quorum",
            double,
            |books| &books.replicated,
            pause,
            books,
        ));
    }
    let classic = SingleClient::new(&calling);
    let double = move |number| classic.double(number);
    let (pause, calls) = (Duration::from_millis(20), Arc::clone(&books));
    crowd.spawn(call("classic", double, |books| &books.single, pause, calls));

    for round in 1..=rounds {
        let before = lock(&books.confirmed).len();
        within("load", LONG, || async {
            lock(&books.confirmed).len() > before + 300
        })
        .await;
        let leader = cluster.leader(QUEUE, None).await.expect("a leader");
        let recoveries = [&books.pushes, &books.replicated, &books.single];
        for recovery in recoveries {
            recovery.fault_begins();
        }
        cluster.nodes()[leader].kill().await;
        for recovery in recoveries {
            recovery.fault_is_there();
        }
        let pushes = books.pushes.over("pushes are confirmed again").await;
        let next = within("another leader", LONG, || async {
            let next = cluster.leader(QUEUE, Some(leader)).await;
            next.filter(|next| *next != leader)
        })
        .await;
        let restarted = Instant::now();
        cluster.nodes()[leader].start_again().await;
        let up = restarted.elapsed();
        // RabbitMQ 3.10 may not take a caller's requests before: see docs/reliability.md.
        let replicated = books.replicated.over("calls are answered again").await;
        let single = books.single.over("the classic service is back").await;
        cluster.is_whole(QUEUE).await;
        println!(
            "round {round}: node {leader} killed, {next} leads; longest without a confirmed push \
             {pushes:.1?}, without an answer {replicated:.1?}, of the classic service {single:.1?}; \
             node back in {up:.1?}, all members {:.1?} later",
            restarted.elapsed() - up
        );
    }

    books.over.store(true, Ordering::SeqCst);
    while let Some(ended) = crowd.join_next().await {
        ended.expect("an actor does not panic");
    }
    let confirmed = lock(&books.confirmed).clone();
    within("all confirmed jobs are done", LONG, || async {
        let done = lock(&books.done);
        let left = confirmed
            .iter()
            .filter(|job| !done.contains_key(job))
            .count();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} of {} left", confirmed.len()))
        }
    })
    .await;
    let (done, unknown) = (lock(&books.done).clone(), lock(&books.unknown).clone());
    let mut sent = done.keys().filter(|job| !confirmed.contains(job));
    let phantom = sent.find(|job| !unknown.contains(job));
    assert_eq!(phantom, None, "done, and never pushed");
    assert_eq!(calling.stats().pending_calls, 0);
    let again = done.values().filter(|times| **times > 1).count();
    println!(
        "{} jobs confirmed and all done, {} unknown, {again} done again; calls {:?}",
        confirmed.len(),
        unknown.len(),
        lock(&books.calls)
    );
    for connection in [producing, calling, serving, working, single] {
        connection.close().await;
    }
}
