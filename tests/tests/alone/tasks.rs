//! The tasks of a connection, which end with it. Each test has a runtime of its own, so that its tasks are those of Lepus.

use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Connection, Incoming, Server, WorkQueue};
use lepus_tests::env::turn;
use lepus_tests::{Env, conformance, eventually};
use tokio::runtime::Handle;

conformance!(
    a_connection_that_is_closed_leaves_none,
    streams_and_calls_that_are_cut_off_leave_none,
);

#[lepus::service(name = "tasks")]
trait Busy {
    async fn echo(&self, text: String) -> String;
    async fn hangs(&self);
    fn numbers(&self, to: u64) -> impl Stream<Item = u64>;
    async fn sum(&self, numbers: Incoming<u64>) -> u64;
}

struct Subject;

impl Busy for Subject {
    async fn echo(&self, text: String) -> String {
        text
    }

    async fn hangs(&self) {
        std::future::pending().await
    }

    fn numbers(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to).chain(stream::pending())
    }

    async fn sum(&self, numbers: Incoming<u64>) -> u64 {
        numbers
            .fold(0, async |sum, row| sum + row.unwrap_or(0))
            .await
    }
}

fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn none_is_left(before: usize) {
    eventually("no task is left", || async {
        let now = alive();
        if now <= before {
            Ok(())
        } else {
            Err(format!("{now} tasks, {before} at the start"))
        }
    })
    .await;
}

/// One of everything that a connection does.
async fn work(env: &Env, connection: &Connection) {
    for queue in ["tasks", "done", "done.dead"] {
        env.name(queue);
    }
    let server = Server::new(connection).serve(BusyServer::new(Subject));
    let server = server.start().await.unwrap();
    let busy = BusyClient::new(connection);
    assert_eq!(busy.echo("hare".into()).await.unwrap(), "hare");
    let numbers = busy.numbers(3).await.unwrap();
    assert_eq!(numbers.take(3).count().await, 3);
    assert_eq!(busy.sum(stream::iter(0..4)).await.unwrap(), 6);
    let queue = WorkQueue::<u64>::new("done");
    let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
    let pool = queue.worker(connection).start(move |job: lepus::Job<u64>| {
        told.send(*job.payload()).unwrap();
        async { Ok::<(), lepus::jobs::JobError>(()) }
    });
    let pool = pool.await.unwrap();
    queue.producer(connection).push(&7).await.unwrap();
    assert_eq!(done.recv().await, Some(7));
    pool.stop().await.unwrap();
    server.stop().await.unwrap();
}

async fn a_connection_that_is_closed_leaves_none(env: Env) {
    let _turn = turn().await;
    let before = alive();
    let connection = env.connect().await;
    work(&env, &connection).await;
    assert!(alive() > before, "what it does is done in tasks");
    connection.close().await;
    none_is_left(before).await;
}

async fn streams_and_calls_that_are_cut_off_leave_none(env: Env) {
    let _turn = turn().await;
    env.name("tasks");
    let before = alive();
    let (serving, calling) = (env.connect().await, env.connect().await);
    let server = Server::new(&serving).serve(BusyServer::new(Subject).concurrency(4));
    let server = server.start().await.unwrap();
    let busy = BusyClient::new(&calling);
    let call = tokio::spawn(busy.hangs().into_future());
    let numbers = busy.numbers(3).await.unwrap();
    let upload = busy.sum(stream::iter(0..4).chain(stream::pending()));
    let upload = tokio::spawn(upload.into_future());
    eventually("all of them run", || async {
        let stats = serving.stats();
        (stats.open_streams, stats.running) == (2, 1)
    })
    .await;
    calling.close().await;
    call.await.unwrap().unwrap_err();
    upload.await.unwrap().unwrap_err();
    drop(numbers);
    drop(server);
    serving.close().await;
    none_is_left(before).await;
}
