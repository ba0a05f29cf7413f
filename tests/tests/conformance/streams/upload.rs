//! Methods that take a stream: `Incoming` arguments.

mod ends;
mod losing;
mod node;
mod opening;
mod rules;

use super::source::Source;
use super::{LONG, SHORT, code};
use futures_util::stream::{self, StreamExt};
use lepus::{Code, Connection, Context, Incoming, Running, Server, Status};
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

conformance!(
    items_arrive_in_order_up_to_the_last,
    items_may_be_of_any_type,
    a_slow_method_slows_its_caller,
    a_slow_upload_delays_nobody,
    an_implementation_in_this_process_is_no_different,
);

/// The method's own error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Refused {
    at: u64,
}

type ImportResult<T> = Result<T, Refused>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Summary {
    table: String,
    rows: u64,
    sum: u64,
    first: Option<u64>,
}

#[lepus::service(name = "importer")]
trait Importer {
    /// All numbers, which come in order.
    async fn import(&self, table: String, rows: Incoming<u64>, first: Option<u64>) -> Summary;
    /// The sum of the numbers before this one, which is refused.
    async fn below(&self, rows: Incoming<u64>, limit: u64) -> Result<u64, Refused>;
    /// The same by an alias.
    async fn alias(&self, rows: Incoming<u64>, limit: u64) -> ImportResult<u64>;
    /// A status at the first item.
    async fn busy(&self, rows: Incoming<u64>) -> Result<(), Status>;
    /// A panic at the first item.
    async fn panics(&self, rows: Incoming<u64>);
    /// The sizes of all items.
    async fn sizes(&self, rows: lepus::Incoming<Vec<u8>>) -> Vec<usize>;
    /// The number of items, each of which is read when there is a permit.
    async fn gated(&self, rows: Incoming<u64>) -> u64;
    /// Answers without an item.
    async fn ignores(&self, rows: Incoming<u64>) -> String;
    /// Neither reads nor answers.
    async fn hangs(&self, rows: Incoming<u64>);
    /// Drops its items after the first one, and waits for a permit.
    async fn leaves(&self, rows: Incoming<u64>) -> u64;
    /// Leaves its items to a task, and answers.
    async fn left_behind(&self, rows: Incoming<u64>);
    /// The items up to the shutdown of the server.
    async fn until_drained(&self, rows: Incoming<u64>) -> u64;
    /// One item by itself.
    #[rpc(params = "bare")]
    async fn bare(&self, add: u64, rows: Incoming<u64>) -> u64;
    /// A plain call.
    async fn echo(&self, text: String) -> String;
    /// Never ends.
    async fn waits(&self);
}

/// The implementation, with what it has seen.
#[derive(Debug)]
struct Subject {
    /// The methods that run.
    running: AtomicU64,
    read: AtomicU64,
    permits: Semaphore,
    /// The ends of items that were no ends.
    errors: Arc<Mutex<Vec<lepus::Error>>>,
}

impl Default for Subject {
    fn default() -> Self {
        Self {
            running: AtomicU64::new(0),
            read: AtomicU64::new(0),
            permits: Semaphore::new(0),
            errors: Arc::default(),
        }
    }
}

/// A method that runs.
struct Begun<'a>(&'a Subject);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Subject {
    fn run(&self) -> Begun<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        Begun(self)
    }

    fn running(&self) -> u64 {
        self.running.load(Ordering::SeqCst)
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    /// The next item, counted. An error is kept.
    async fn next(&self, rows: &mut Incoming<u64>) -> Option<u64> {
        match rows.next().await? {
            Ok(row) => {
                self.read.fetch_add(1, Ordering::SeqCst);
                Some(row)
            }
            Err(error) => {
                assert!(rows.next().await.is_none(), "an error is the last item");
                self.errors.lock().unwrap().push(error);
                None
            }
        }
    }

    /// The error with which the items of one method have ended.
    async fn error(&self) -> lepus::Error {
        eventually("the items end with an error", || async {
            self.errors.lock().unwrap().pop()
        })
        .await
    }
}

impl Importer for Subject {
    async fn import(&self, table: String, mut rows: Incoming<u64>, first: Option<u64>) -> Summary {
        let _running = self.run();
        let (mut count, mut sum) = (0, 0);
        while let Some(row) = self.next(&mut rows).await {
            assert_eq!(row, count);
            count += 1;
            sum += row;
        }
        assert_eq!(rows.items(), count);
        Summary {
            table,
            rows: count,
            sum,
            first,
        }
    }

    async fn below(&self, mut rows: Incoming<u64>, limit: u64) -> Result<u64, Refused> {
        let _running = self.run();
        let mut sum = 0;
        while let Some(row) = self.next(&mut rows).await {
            if row == limit {
                return Err(Refused { at: row });
            }
            sum += row;
        }
        Ok(sum)
    }

    async fn alias(&self, rows: Incoming<u64>, limit: u64) -> ImportResult<u64> {
        self.below(rows, limit).await
    }

    async fn busy(&self, mut rows: Incoming<u64>) -> Result<(), Status> {
        let _running = self.run();
        let row = self.next(&mut rows).await;
        Err(Status::new(Code::OutOfRange, format!("{row:?}")))
    }

    async fn panics(&self, mut rows: Incoming<u64>) {
        let _running = self.run();
        self.next(&mut rows).await;
        // Without the hook, which would print it.
        std::panic::resume_unwind(Box::new("an import panics"));
    }

    async fn sizes(&self, rows: Incoming<Vec<u8>>) -> Vec<usize> {
        let sizes = rows.map(|row| row.map_or(usize::MAX, |row| row.len()));
        sizes.collect().await
    }

    async fn gated(&self, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        loop {
            self.permits.acquire().await.unwrap().forget();
            if self.next(&mut rows).await.is_none() {
                return rows.items();
            }
        }
    }

    async fn ignores(&self, _rows: Incoming<u64>) -> String {
        let _running = self.run();
        Context::current().method().to_owned()
    }

    async fn hangs(&self, rows: Incoming<u64>) {
        let _running = self.run();
        std::future::pending::<()>().await;
        drop(rows);
    }

    async fn leaves(&self, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        let row = self.next(&mut rows).await;
        drop(rows);
        self.permits.acquire().await.unwrap().forget();
        row.unwrap()
    }

    async fn left_behind(&self, mut rows: Incoming<u64>) {
        let errors = Arc::clone(&self.errors);
        tokio::spawn(async move {
            while let Some(row) = rows.next().await {
                if let Err(error) = row {
                    errors.lock().unwrap().push(error);
                }
            }
        });
    }

    async fn until_drained(&self, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        let context = Context::current();
        loop {
            tokio::select! {
                row = self.next(&mut rows) => row,
                () = context.draining() => return rows.items(),
            };
        }
    }

    async fn bare(&self, add: u64, rows: Incoming<u64>) -> u64 {
        rows.fold(add, async |sum, row| sum + row.unwrap()).await
    }

    async fn waits(&self) {
        std::future::pending().await
    }

    async fn echo(&self, text: String) -> String {
        text
    }
}

/// A server and a client, as two processes would be.
struct Fixture {
    serving: Connection,
    calling: Connection,
    server: Running,
    subject: Arc<Subject>,
    importer: ImporterClient,
    source: Source,
}

impl Fixture {
    async fn start(env: &Env) -> Self {
        Self::over(env, env.connect().await, env.connect().await).await
    }

    async fn over(env: &Env, serving: Connection, calling: Connection) -> Self {
        env.name("importer");
        let subject = Arc::new(Subject::default());
        let server = serve(&serving, &subject).start().await;
        Self {
            server: server.unwrap_or_else(|error| panic!("{error}")),
            importer: ImporterClient::new(&calling),
            serving,
            calling,
            subject,
            source: Source::default(),
        }
    }

    /// Nothing is left of any stream on either side.
    async fn is_at_rest(&self) {
        eventually("no method runs", || async { self.subject.running() == 0 }).await;
        eventually("no stream is registered", || async {
            self.serving.stats().open_streams + self.calling.stats().open_streams == 0
        })
        .await;
        self.source.is_dropped().await;
    }

    /// The same server still answers calls.
    async fn is_well(&self) {
        let echo = self.importer.echo("still there".into()).await;
        assert_eq!(echo.as_deref().ok(), Some("still there"), "{echo:?}");
    }
}

fn serve(connection: &Connection, subject: &Arc<Subject>) -> Server {
    Server::new(connection).serve(ImporterServer::from_arc(Arc::clone(subject)))
}

/// Imports of several lengths, with items that are ready and some that are not.
async fn imports(importer: &ImporterClient, source: &Source) {
    for to in [0, 1, 2, 31, 32, 33, 500] {
        let sum = (0..to).sum();
        let table = format!("table {to}");
        let summary = Summary {
            table: table.clone(),
            rows: to,
            sum,
            first: Some(to),
        };
        let call = importer.import(table.clone(), source.numbers(to), Some(to));
        assert_eq!(call.await.unwrap(), summary);
        let slow = source.numbers(to).then(async |number| {
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
            number
        });
        let call = importer.import(table, slow, Some(to)).total(LONG);
        assert_eq!(call.await.unwrap(), summary);
    }
}

async fn items_arrive_in_order_up_to_the_last(env: Env) {
    let fixture = Fixture::start(&env).await;
    imports(&fixture.importer, &fixture.source).await;
    fixture.is_at_rest().await;
    let stats = fixture.calling.stats();
    assert_eq!(stats.dropped_replies, 0);
    // Several at once.
    let calls = (0..20).map(|_| imports(&fixture.importer, &fixture.source));
    futures_util::future::join_all(calls).await;
    fixture.is_at_rest().await;
}

async fn items_may_be_of_any_type(env: Env) {
    let fixture = Fixture::start(&env).await;
    let sizes = [0, 1, 300, 70_000, 3];
    let rows = stream::iter(sizes).map(|size| vec![7; size]);
    assert_eq!(fixture.importer.sizes(rows).await.unwrap(), sizes);
    let sum = fixture.importer.bare(32, stream::iter([1, 2, 3, 4]));
    assert_eq!(sum.await.unwrap(), 42);
}

async fn a_slow_method_slows_its_caller(env: Env) {
    let fixture = Fixture::start(&env).await;
    let source = fixture.source.clone();
    let call = fixture.importer.gated(source.numbers(200)).into_future();
    let call = tokio::spawn(call);
    eventually("the window is full", || async { source.polled() == 32 }).await;
    fixture.subject.permits.add_permits(15);
    eventually("15 are read", || async { fixture.subject.read() == 15 }).await;
    // A round trip on each connection, in which a credit would have come.
    fixture.is_well().await;
    assert_eq!(source.polled(), 32, "no credit yet");
    fixture.subject.permits.add_permits(1);
    eventually("half of it", || async { source.polled() == 48 }).await;
    fixture.is_well().await;
    assert_eq!(source.polled(), 48);
    fixture.subject.permits.add_permits(1000);
    assert_eq!(call.await.unwrap().unwrap(), 200);
    fixture.is_at_rest().await;
}

async fn a_slow_upload_delays_nobody(env: Env) {
    let fixture = Fixture::start(&env).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let rows = fixture.source.numbers(100);
            tokio::spawn(fixture.importer.gated(rows).into_future())
        })
        .collect();
    eventually("all have begun", || async {
        fixture.subject.running() == 10
    })
    .await;
    for _ in 0..20 {
        fixture.is_well().await;
    }
    imports(&fixture.importer, &fixture.source).await;
    fixture.subject.permits.add_permits(2000);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), 100);
    }
    fixture.is_at_rest().await;
}

/// It needs no broker, but it is the same for both.
async fn an_implementation_in_this_process_is_no_different(_env: Env) {
    let (subject, source) = (Arc::new(Subject::default()), Source::default());
    let importer = ImporterClient::from(lepus::rpc::Client::local(ImporterServer::from_arc(
        Arc::clone(&subject),
    )));
    imports(&importer, &source).await;
    // Before the call, whose task may poll its rows at once.
    let polled = source.polled();
    let call = tokio::spawn(importer.gated(source.numbers(1000)).into_future());
    eventually("the window is full", || async {
        source.polled() == polled + 32
    })
    .await;
    call.abort();
    eventually("the method is dropped", || async { subject.running() == 0 }).await;
    source.is_dropped().await;

    let refused = importer.below(source.numbers(100), 7).await.unwrap_err();
    assert_eq!(refused.service(), Some(&Refused { at: 7 }));
    assert_eq!(
        importer.ignores(source.endless(3)).await.unwrap(),
        "ignores"
    );
    let busy = importer.busy(source.numbers(1)).await.unwrap_err();
    assert_eq!(code(Some(busy)), Code::OutOfRange);
    let late = importer.hangs(source.endless(1)).total(SHORT).await;
    assert!(late.unwrap_err().is_timeout());
    importer.left_behind(source.endless(1)).await.unwrap();
    let error = subject.error().await;
    assert_eq!(error.code(), Some(Code::Cancelled), "{error}");
    eventually("the methods are dropped", || async {
        subject.running() == 0
    })
    .await;
    source.is_dropped().await;
}
