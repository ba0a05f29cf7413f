//! The actors that call and push; each writes down what it sees.

use crate::book::{Book, Channel, End, Fate, Home, Runs};
use crate::dice::Dice;
use futures_util::future::join_all;
use lepus::{CallError, Connection, Topic, WorkQueue};
use lepus_tests::chaos_peers::{ChaosClient, Going, KEY, LIMIT, OVERSIZE, Queues, Task, events};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The number of handlers that each server and each pool runs.
pub const CONCURRENCY: [u16; 2] = [1, 4];

/// Nobody serves it.
#[lepus::service(client)]
trait Nowhere {
    async fn ask(&self, id: u64);
}

/// Numbers that nobody else has, and the word to stop.
#[derive(Debug, Default)]
pub struct Shift {
    next: AtomicU64,
    over: AtomicBool,
}

impl Shift {
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Messages that the broker refuses, and closes their channel for.
#[derive(Debug, Clone, Copy)]
pub struct Refusals {
    /// Whether it refuses those that are larger than [`BROKER_LIMIT`](lepus_tests::chaos_peers::BROKER_LIMIT).
    pub are_oversize: bool,
}

/// The broker takes a table or an array of routing keys.
const BAD_CC: (&str, &str) = ("CC", "no array");

/// A call whose reply the broker refuses.
pub const GROWING: &str = "growing";

/// Calls until the shift is over.
pub async fn call(
    connection: Connection,
    mut dice: Dice,
    refusals: Refusals,
    shift: Arc<Shift>,
    book: Arc<Book>,
) {
    let chaos = ChaosClient::new(&connection);
    let nowhere = NowhereClient::new(&connection);
    while !shift.is_over() {
        let id = shift.number();
        let limit = dice.millis(300, 3_000);
        let begin = |kind, runs| book.call(id, kind, runs, limit);
        let text = "x".repeat(usize::try_from(dice.below(2_000)).expect("small"));
        let end = match dice.below(303) {
            300 => {
                begin("bad header", Runs::Never);
                let call = chaos.plain(id, text).header(BAD_CC.0, BAD_CC.1);
                failed(call.timeout(limit).await.map(drop), id, &book)
            }
            301 if refusals.are_oversize => {
                begin("oversize", Runs::Never);
                let reply = chaos.plain(id, "x".repeat(OVERSIZE)).timeout(limit).await;
                failed(reply.map(drop), id, &book)
            }
            302 if refusals.are_oversize => {
                begin(GROWING, Runs::AtMostOnce);
                failed(chaos.grows(id).timeout(limit).await.map(drop), id, &book)
            }
            0..135 | 301.. => {
                begin("plain", Runs::AtMostOnce);
                let reply = chaos.plain(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            135..195 => {
                begin("idempotent", Runs::Any);
                let reply = chaos.again(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            195..240 => {
                begin("at most once", Runs::AtMostOnce);
                let reply = chaos.once(id, text.clone()).timeout(limit).await;
                answered(reply, id, &text, &book)
            }
            240..258 => {
                begin("failing", Runs::AtMostOnce);
                match chaos.fails(id).timeout(limit).await {
                    Err(CallError::Service(text)) => mine(text == id.to_string(), id, &book),
                    Err(CallError::Rpc(error)) => known(&error),
                    Ok(()) => mine(false, id, &book),
                }
            }
            258..267 => {
                begin("panicking", Runs::AtMostOnce);
                failed(chaos.panics(id).timeout(limit).await, id, &book)
            }
            267..273 => {
                let limit = limit.min(Duration::from_millis(400));
                begin("hanging", Runs::AtMostOnce);
                failed(chaos.hangs(id).timeout(limit).await, id, &book)
            }
            273..285 => {
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

/// Calls many at once, which share messages, until the shift is over.
pub async fn call_together(
    connection: Connection,
    mut dice: Dice,
    shift: Arc<Shift>,
    book: Arc<Book>,
) {
    let chaos = ChaosClient::builder(&connection).coalesce(16).build();
    while !shift.is_over() {
        let limit = dice.millis(300, 3_000);
        let burst = (0..dice.below(40)).map(|_| {
            let (id, kind) = (shift.number(), dice.below(100));
            let text = "x".repeat(usize::try_from(dice.below(2_000)).expect("small"));
            let (chaos, book) = (&chaos, &book);
            async move {
                let end = match kind {
                    0..60 => {
                        book.call(id, "together", Runs::AtMostOnce, limit);
                        let reply = chaos.plain(id, text.clone()).timeout(limit).await;
                        answered(reply, id, &text, book)
                    }
                    60..90 => {
                        book.call(id, "together, idempotent", Runs::Any, limit);
                        let reply = chaos.again(id, text.clone()).timeout(limit).await;
                        answered(reply, id, &text, book)
                    }
                    90..95 => {
                        book.call(id, "together, panicking", Runs::AtMostOnce, limit);
                        failed(chaos.panics(id).timeout(limit).await, id, book)
                    }
                    _ => {
                        book.call(id, "together, at most once", Runs::AtMostOnce, limit);
                        let reply = chaos.once(id, text.clone()).timeout(limit).await;
                        answered(reply, id, &text, book)
                    }
                };
                book.call_ended(id, end);
            }
        });
        join_all(burst.collect::<Vec<_>>()).await;
        dice.idle(0, 50).await;
    }
}

/// Makes calls and drops many of them before they end, until the shift is over.
pub async fn drop_calls(
    connection: Connection,
    mut dice: Dice,
    shift: Arc<Shift>,
    book: Arc<Book>,
) {
    let alone = ChaosClient::new(&connection);
    let together = ChaosClient::builder(&connection).coalesce(16).build();
    while !shift.is_over() {
        let burst = (0..1 + dice.below(10)).map(|_| {
            let (id, kind) = (shift.number(), dice.below(5));
            let chaos = [&alone, &together][usize::from(dice.below(2) == 0)];
            let (limit, patience) = (dice.millis(300, 3_000), dice.millis(0, 200));
            let (book, text) = (&book, String::new());
            async move {
                let end = match kind {
                    0..2 => {
                        book.call(id, "dropped", Runs::AtMostOnce, limit);
                        let call = chaos.plain(id, text).timeout(limit).into_future();
                        let reply = tokio::time::timeout(patience, call).await;
                        reply.map(|reply| answered(reply, id, "", book))
                    }
                    2 => {
                        book.call(id, "dropped, idempotent", Runs::Any, limit);
                        let call = chaos.again(id, text).timeout(limit).into_future();
                        let reply = tokio::time::timeout(patience, call).await;
                        reply.map(|reply| answered(reply, id, "", book))
                    }
                    3 => {
                        book.call(id, "dropped, at most once", Runs::AtMostOnce, limit);
                        let call = chaos.once(id, text).timeout(limit).into_future();
                        let reply = tokio::time::timeout(patience, call).await;
                        reply.map(|reply| answered(reply, id, "", book))
                    }
                    _ => {
                        let limit = limit.min(Duration::from_millis(400));
                        book.call(id, "dropped, hanging", Runs::AtMostOnce, limit);
                        let call = chaos.hangs(id).timeout(limit).into_future();
                        let reply = tokio::time::timeout(patience, call).await;
                        reply.map(|reply| failed(reply, id, book))
                    }
                };
                book.call_ended(id, end.unwrap_or(End::Dropped));
            }
        });
        join_all(burst.collect::<Vec<_>>()).await;
        dice.idle(50, 200).await;
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
pub fn failed(reply: Result<(), CallError>, id: u64, book: &Book) -> End {
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

/// The fault that a job has on purpose.
#[derive(Clone, Copy)]
enum Flaw {
    None,
    BadHeader,
    Oversize,
}

/// Pushes bursts until the shift is over.
pub async fn push(
    connection: Connection,
    mut dice: Dice,
    refusals: Refusals,
    shift: Arc<Shift>,
    book: Arc<Book>,
) {
    let queues = Queues::default();
    let limit = Duration::from_secs(2);
    let producer = |queue: &WorkQueue<Task>| queue.producer(&connection).timeout(limit);
    let (main, killed, doomed, fleeting, narrow, nowhere) = (
        producer(&queues.main),
        producer(&queues.killed),
        producer(&queues.doomed),
        producer(&queues.fleeting),
        producer(&queues.narrow),
        producer(&queues.nowhere),
    );
    while !shift.is_over() {
        if book.is_behind() {
            dice.idle(50, 100).await;
            continue;
        }
        // At once, so that their confirms come in any order and together.
        let mut pushes = Vec::new();
        let burst = shift.number();
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
            // A third of what is worked on goes to processes of their own, and a third to queues
            // that are deleted.
            let place = dice.below(6);
            let is_steady = matches!(going, Going::Well);
            let deleted = Home::Deleted { is_steady };
            let (producer, home, channel) = match (fate, place) {
                (Fate::Done | Fate::Dead, 0..2) => (&killed, Home::Lasting, "killed"),
                (Fate::Done | Fate::Dead, 2) => (&doomed, deleted, "doomed"),
                (Fate::Done | Fate::Dead, 3) => (&fleeting, deleted, "fleeting"),
                (Fate::Done | Fate::Dead, _) => (producer, Home::Lasting, "jobs"),
                _ => (producer, Home::Lasting, "others"),
            };
            let channel = Channel::Burst(burst, channel);
            let (fate, flaw) = match (fate, dice.below(200)) {
                (Fate::Done | Fate::Dead, 0) => (Fate::Refused, Flaw::BadHeader),
                (Fate::Done | Fate::Dead, 1) if refusals.are_oversize => {
                    (Fate::Refused, Flaw::Oversize)
                }
                _ => (fate, Flaw::None),
            };
            book.push_to(home, channel, id, fate, limit);
            let mut task = Task::new(id, going);
            if matches!(flaw, Flaw::Oversize) {
                task.padding = "x".repeat(OVERSIZE);
            }
            let push = producer.push(&task);
            let push = match flaw {
                Flaw::BadHeader => push.header(BAD_CC.0, BAD_CC.1),
                Flaw::None | Flaw::Oversize => push,
            };
            let book = Arc::clone(&book);
            pushes.push(async move {
                let end = match push.await {
                    Ok(()) => End::Done,
                    Err(error) => {
                        own_refusal(id, fate, home, &error, &book);
                        known(&error)
                    }
                };
                book.pushed(id, end);
            });
        }
        join_all(pushes).await;
        dice.idle(5, 30).await;
    }
}

/// 12: why the broker refused another job is not told of this one.
fn own_refusal(id: u64, fate: Fate, home: Home, error: &lepus::Error, book: &Book) {
    let is_told = error.is_too_large() || matches!(error.amqp_code(), Some(403..=406));
    // Its queue is there with other arguments.
    let is_own = fate == Fate::Refused || (home != Home::Lasting && error.is_mismatch());
    if is_told && !is_own {
        book.complain(format!(
            "12: job {id} is told what is not about it: {error}"
        ));
    }
}

/// Publishes events until the shift is over: each to the group, or to nobody and told so.
pub async fn publish(connection: Connection, mut dice: Dice, shift: Arc<Shift>, book: Arc<Book>) {
    let limit = Duration::from_secs(2);
    let publisher = events().publisher(&connection).mandatory().persistent();
    let publisher = publisher.timeout(limit);
    let missing = Topic::<Task>::new("missing").passive();
    let missing = missing.publisher(&connection).timeout(limit);
    while !shift.is_over() {
        let mut publishes = Vec::new();
        for _ in 0..1 + dice.below(5) {
            let id = shift.number();
            let (publisher, fate) = match dice.below(20) {
                0 => (&missing, Fate::Nowhere),
                _ => (&publisher, Fate::Done),
            };
            book.push_to(Home::Lasting, Channel::Exchange, id, fate, limit);
            let publish = publisher.publish(KEY, &Task::new(id, Going::Well));
            let book = Arc::clone(&book);
            publishes.push(async move {
                let end = match publish.await {
                    Ok(()) => End::Done,
                    Err(error) => known(&error),
                };
                book.pushed(id, end);
            });
        }
        join_all(publishes).await;
        dice.idle(20, 100).await;
    }
}
