//! Who calls, who serves, who pushes and who works; each writes down what it sees.

use crate::book::{Book, End, Fate, Runs};
use crate::dice::Dice;
use crate::{ATTEMPTS, LIMIT};
use lepus::{
    CallError, Connection, Context, Job, JobError, RetryPolicy, Running, Server, WorkQueue, reject,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How many handlers each server and each pool runs.
pub const CONCURRENCY: [u16; 2] = [1, 4];

#[lepus::service(name = "chaos")]
pub trait Chaos {
    async fn plain(&self, id: u64, text: String) -> (u64, String);
    #[rpc(idempotent)]
    async fn again(&self, id: u64, text: String) -> (u64, String);
    #[rpc(at_most_once)]
    async fn once(&self, id: u64, text: String) -> (u64, String);
    async fn fails(&self, id: u64) -> Result<(), String>;
    async fn panics(&self, id: u64);
    async fn hangs(&self, id: u64);
}

/// Nobody serves it.
#[lepus::service(client)]
trait Nowhere {
    async fn ask(&self, id: u64);
}

/// How many handlers are at work, and never more than may be.
struct Places {
    at_work: AtomicU32,
    most: u16,
}

struct Place<'a>(&'a Places);

impl Places {
    fn take<'a>(&'a self, book: &Book) -> Place<'a> {
        let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        if now > u32::from(self.most) {
            book.complain(format!("9: {now} handlers at work, of {}", self.most));
        }
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Serving {
    book: Arc<Book>,
    places: Places,
}

impl Serving {
    async fn run(&self, id: u64) {
        let context = Context::current();
        self.book.call_run(id, context.redelivered());
        if context.time_left().is_some_and(|left| left.is_zero()) {
            self.book
                .complain(format!("11: call {id} ran with no time left"));
        }
        // Some take a while, so that faults meet them at work.
        if id.is_multiple_of(4) {
            tokio::time::sleep(Duration::from_millis(id % 50)).await;
        }
    }
}

impl Chaos for Serving {
    async fn plain(&self, id: u64, text: String) -> (u64, String) {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        (id, text)
    }

    async fn again(&self, id: u64, text: String) -> (u64, String) {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        (id, text)
    }

    async fn once(&self, id: u64, text: String) -> (u64, String) {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        (id, text)
    }

    async fn fails(&self, id: u64) -> Result<(), String> {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        Err(id.to_string())
    }

    async fn panics(&self, id: u64) {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        // Not `panic!`: a run has thousands, and nobody wants their backtraces.
        std::panic::resume_unwind(Box::new("on purpose"));
    }

    async fn hangs(&self, id: u64) {
        let _place = self.places.take(&self.book);
        self.run(id).await;
        std::future::pending().await
    }
}

pub async fn serve(connection: &Connection, concurrency: u16, book: &Arc<Book>) -> Running {
    let serving = Serving {
        book: Arc::clone(book),
        places: Places {
            at_work: AtomicU32::new(0),
            most: concurrency,
        },
    };
    let server = Server::new(connection).serve(ChaosServer::new(serving));
    let started = server.concurrency(concurrency).start().await;
    started.expect("a server")
}

/// Numbers that nobody else has, and the word to stop.
#[derive(Debug, Default)]
pub struct Shift {
    next: AtomicU64,
    over: AtomicBool,
}

impl Shift {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Calls until the shift is over.
pub async fn call(connection: Connection, mut dice: Dice, shift: Arc<Shift>, book: Arc<Book>) {
    let chaos = ChaosClient::new(&connection);
    let nowhere = NowhereClient::new(&connection);
    while !shift.is_over() {
        let id = shift.number();
        let limit = dice.millis(300, 3_000);
        let begin = |kind, runs| book.call(id, kind, runs, limit);
        let text = "x".repeat(usize::try_from(dice.below(2_000)).expect("small"));
        let end = match dice.below(100) {
            0..45 => {
                begin("plain", Runs::OncePerLoss);
                let reply = chaos.plain(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            45..65 => {
                begin("idempotent", Runs::Any);
                let reply = chaos.again(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            65..80 => {
                begin("at most once", Runs::AtMostOnce);
                let reply = chaos.once(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            80..86 => {
                begin("failing", Runs::OncePerLoss);
                match chaos.fails(id).timeout(limit).await {
                    Err(CallError::Service(text)) => mine(text == id.to_string(), id, &book),
                    Err(CallError::Rpc(error)) => known(&error),
                    Ok(()) => mine(false, id, &book),
                }
            }
            86..89 => {
                begin("panicking", Runs::OncePerLoss);
                failed(chaos.panics(id).timeout(limit).await, id, &book)
            }
            89..91 => {
                let limit = limit.min(Duration::from_millis(400));
                begin("hanging", Runs::OncePerLoss);
                failed(chaos.hangs(id).timeout(limit).await, id, &book)
            }
            91..95 => {
                begin("too large", Runs::Never);
                let reply = chaos.plain(id, "x".repeat(LIMIT + 1)).timeout(limit).await;
                failed(reply.map(drop), id, &book)
            }
            _ => {
                begin("unroutable", Runs::Never);
                failed(nowhere.ask(id).timeout(limit).await, id, &book)
            }
        };
        book.call_ended(id, end);
    }
}

fn answered(reply: Result<(u64, String), CallError>, id: u64, text: &str, book: &Book) -> End {
    match reply {
        Ok((got, back)) => mine(got == id && back == text, id, book),
        Err(CallError::Rpc(error)) => known(&error),
        Err(CallError::Service(never)) => match never {},
    }
}

/// A call that cannot succeed.
fn failed(reply: Result<(), CallError>, id: u64, book: &Book) -> End {
    match reply {
        Ok(()) => {
            book.complain(format!("2: call {id} cannot succeed, and did"));
            End::Done
        }
        Err(CallError::Rpc(error)) => known(&error),
        Err(CallError::Service(never)) => match never {},
    }
}

fn mine(is_mine: bool, id: u64, book: &Book) -> End {
    if !is_mine {
        book.complain(format!("3: call {id} has a reply that is not its own"));
    }
    End::Done
}

fn known(error: &lepus::Error) -> End {
    if error.may_have_executed() {
        End::Unknown
    } else {
        End::NotDone
    }
}

/// A job, and how it goes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Task {
    pub id: u64,
    pub fate: Going,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Going {
    Well,
    /// Not at the first attempts.
    Later(u32),
    Panics,
    Never,
}

/// The queues of a run.
#[derive(Debug, Clone)]
pub struct Queues {
    pub main: WorkQueue<Task>,
    /// Nobody works on it, and it is soon full.
    pub narrow: WorkQueue<Task>,
    pub nowhere: WorkQueue<Task>,
}

impl Queues {
    pub fn new() -> Queues {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(80));
        let policy = RetryPolicy::default()
            .attempts(ATTEMPTS)
            .backoff(first, longest)
            .jitter(0.0);
        Queues {
            main: WorkQueue::new("jobs").retry(policy),
            narrow: WorkQueue::new("narrow").classic().max_length(50),
            nowhere: WorkQueue::new("nowhere").passive(),
        }
    }
}

/// Pushes bursts until the shift is over.
pub async fn push(connection: Connection, mut dice: Dice, shift: Arc<Shift>, book: Arc<Book>) {
    let queues = Queues::new();
    let limit = Duration::from_secs(2);
    let producer = |queue: &WorkQueue<Task>| queue.producer(&connection).timeout(limit);
    let (main, narrow, nowhere) = (
        producer(&queues.main),
        producer(&queues.narrow),
        producer(&queues.nowhere),
    );
    while !shift.is_over() {
        if book.is_behind() {
            tokio::time::sleep(dice.millis(50, 100)).await;
            continue;
        }
        // At once, so that their confirms come in any order and together.
        let mut pushes = Vec::new();
        for _ in 0..1 + dice.below(20) {
            let id = shift.number();
            let (producer, fate, going) = match dice.below(20) {
                0 => (&nowhere, Fate::Nowhere, Going::Well),
                1..3 => (&narrow, Fate::Kept, Going::Well),
                3 => (&main, Fate::Dead, Going::Never),
                4 => (&main, Fate::Done, Going::Panics),
                5..8 => {
                    let times = 1 + u32::try_from(dice.below(2)).expect("small");
                    (&main, Fate::Done, Going::Later(times))
                }
                _ => (&main, Fate::Done, Going::Well),
            };
            book.push(id, fate, limit);
            let task = Task { id, fate: going };
            let (producer, book) = (producer.clone(), Arc::clone(&book));
            pushes.push(async move {
                let end = match producer.push(&task).await {
                    Ok(()) => End::Done,
                    Err(error) => known(&error),
                };
                book.pushed(id, end);
            });
        }
        futures_util::future::join_all(pushes).await;
        tokio::time::sleep(dice.millis(5, 30)).await;
    }
}

pub async fn work(connection: &Connection, concurrency: u16, book: &Arc<Book>) -> Running {
    let book = Arc::clone(book);
    let places = Arc::new(Places {
        at_work: AtomicU32::new(0),
        most: concurrency,
    });
    let handler = move |job: Job<Task>| {
        let (book, places) = (Arc::clone(&book), Arc::clone(&places));
        async move {
            let _place = places.take(&book);
            let Task { id, fate } = *job.payload();
            book.job_run(id, job.redelivered(), job.attempt());
            if id.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(id % 20)).await;
            }
            match fate {
                Going::Never => return Err(reject("never")),
                Going::Later(times) if job.attempt() <= times => {
                    return Err(lepus::retry("later"));
                }
                Going::Panics if job.attempt() == 1 => {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                _ => {}
            }
            book.job_done(id);
            Ok::<(), JobError>(())
        }
    };
    let pool = Queues::new().main.worker(connection);
    let started = pool.concurrency(concurrency).start(handler).await;
    started.expect("a pool of workers")
}
