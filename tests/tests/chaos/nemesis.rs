//! The faults, drawn from the dice; and the end of them. The sleeps here are how long a fault lasts: nothing is waited
//! for, and no check depends on their length.

use crate::book::Book;
use crate::dice::Dice;
use crate::processes::Phase;
use lapin::options::{ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use lepus_tests::proxy::{Cut, Mode, Proxy, Slow, Way};
use lepus_tests::raw::{Raw, durable};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Breaks what runs through one proxy, again and again, until it is dropped.
pub async fn haunt(proxy: Arc<Proxy>, mut dice: Dice, book: Arc<Book>) {
    loop {
        dice.idle(50, 1_200).await;
        let short = dice.millis(20, 500);
        // Two heartbeats and more: some are found dead.
        let long = dice.millis(500, 4_000);
        match dice.below(12) {
            0..3 => {
                book.fault("cut by FIN");
                proxy.cut(Cut::Fin);
            }
            3..6 => {
                book.fault("cut by RST");
                proxy.cut(Cut::Rst);
            }
            6 => {
                book.fault("stalled up");
                stall(&proxy, &[Way::Up], short).await;
            }
            7 => {
                book.fault("stalled down");
                stall(&proxy, &[Way::Down], short).await;
            }
            8 => {
                book.fault("half-open");
                stall(&proxy, &[Way::Up, Way::Down], long).await;
            }
            9 => {
                book.fault("stalled up and cut");
                proxy.stall(Way::Up);
                tokio::time::sleep(short).await;
                proxy.cut(Cut::Rst);
                proxy.resume();
            }
            10 => {
                book.fault("away");
                let modes = [Mode::Refuse, Mode::AcceptThenClose, Mode::AcceptSilent];
                let which = usize::try_from(dice.below(3)).expect("small");
                proxy.set(modes[which]).await;
                proxy.cut(Cut::Rst);
                tokio::time::sleep(long.min(Duration::from_secs(2))).await;
                proxy.up().await;
            }
            _ => {
                book.fault("slow");
                proxy.slow(Some(Slow {
                    delay: Duration::from_millis(5),
                    piece: 4_096,
                }));
                tokio::time::sleep(short).await;
                proxy.slow(None);
            }
        }
    }
}

async fn stall(proxy: &Proxy, ways: &[Way], time: Duration) {
    for way in ways {
        proxy.stall(*way);
    }
    tokio::time::sleep(time).await;
    proxy.resume();
}

/// No more faults, and everything through this proxy passes.
pub async fn heal(proxy: &Proxy) {
    proxy.slow(None);
    proxy.resume();
    proxy.up().await;
}

/// Something that is deleted while others use it.
#[derive(Debug, Clone)]
pub enum Target {
    /// A queue of jobs, and those where they wait for another attempt or lie when they are dead.
    Jobs { main: String, others: Vec<String> },
    /// Requests may be lost: each has its deadline.
    Service(String),
    /// An exchange, and the queue that is bound to it by this key. No consumer is told that a
    /// binding has gone, so who puts the exchange right binds the queue again.
    Events {
        exchange: String,
        queue: String,
        key: &'static str,
    },
}

/// Deletes one thing again and again, and sometimes declares it otherwise for a while, until the
/// torment is over. Then all is right, or missing.
pub async fn demolish(
    uri: String,
    target: Target,
    mut dice: Dice,
    mut phase: watch::Receiver<Phase>,
    book: Arc<Book>,
) {
    // A service that is away most of the time is none.
    let rest = match target {
        Target::Service(_) => 4,
        Target::Jobs { .. } | Target::Events { .. } => 1,
    };
    while pause(rest * dice.millis(300, 3_000), &mut phase).await {
        let (is_otherwise, time) = (dice.below(2) == 0, dice.millis(100, 2_500));
        match &target {
            Target::Jobs { main, others } => {
                let which = usize::try_from(dice.below(10)).expect("small");
                let (queue, is_main) = match which.checked_sub(5) {
                    None => (main, true),
                    Some(other) => (&others[other % others.len()], false),
                };
                if delete(&uri, queue, is_otherwise, Some(is_main), &book).await {
                    book.fault("queue otherwise");
                    pause(time, &mut phase).await;
                    delete(&uri, queue, false, Some(is_main), &book).await;
                } else {
                    book.fault("queue deleted");
                }
            }
            Target::Service(queue) => {
                if delete(&uri, queue, true, None, &book).await {
                    book.fault("service queue otherwise");
                    pause(time, &mut phase).await;
                    delete(&uri, queue, false, None, &book).await;
                }
            }
            Target::Events {
                exchange,
                queue,
                key,
            } => {
                let other = is_otherwise.then_some(ExchangeKind::Fanout);
                if delete_exchange(&uri, exchange, other, &book).await {
                    book.fault("exchange otherwise");
                    pause(time, &mut phase).await;
                } else {
                    book.fault("exchange deleted");
                    // Publishers may have declared it again by then, and nothing is bound.
                    pause(time / 4, &mut phase).await;
                }
                if delete_exchange(&uri, exchange, Some(ExchangeKind::Topic), &book).await {
                    let raw = Raw::open(&uri).await;
                    raw.bind(queue, exchange, key, &[]).await;
                    raw.close().await;
                } else {
                    book.complain(format!("{exchange} is not what it should be"));
                }
            }
        }
    }
}

/// Waits so long; false if the torment is over before.
async fn pause(time: Duration, phase: &mut watch::Receiver<Phase>) -> bool {
    let over = phase.wait_for(|phase| *phase != Phase::Torment);
    tokio::time::timeout(time, over).await.is_err()
}

/// Deletes a queue, and declares it with other arguments at once if that is asked for; whether it
/// is there so, since nobody was faster. Jobs that are lost by it are told to the book: the count,
/// if the queue is worked on.
async fn delete(
    uri: &str,
    queue: &str,
    is_otherwise: bool,
    is_main: Option<bool>,
    book: &Book,
) -> bool {
    let began = Instant::now();
    let raw = Raw::open(uri).await;
    let options = QueueDeleteOptions::default();
    let deleting = raw.channel.queue_delete(queue.into(), options);
    let arguments = [("x-max-priority", AMQPValue::LongInt(3))];
    // Both are written before the first is answered.
    let declaring =
        async { is_otherwise && raw.declare_with(queue, durable(), &arguments).await.is_ok() };
    let (deleted, is_there) = tokio::join!(deleting, declaring);
    let messages = deleted.unwrap_or_else(|error| panic!("{queue}: {error}"));
    raw.close().await;
    if let Some(is_main) = is_main {
        book.deleted(began, is_main.then_some(messages.into()));
    }
    is_there
}

/// Deletes an exchange, and declares it as of a type at once if that is asked for; whether it is
/// there so.
async fn delete_exchange(
    uri: &str,
    exchange: &str,
    kind: Option<ExchangeKind>,
    book: &Book,
) -> bool {
    let raw = Raw::open(uri).await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declaring = async {
        let Some(kind) = kind else { return false };
        let (name, table) = (exchange.into(), FieldTable::default());
        let declared = raw.channel.exchange_declare(name, kind, options, table);
        declared.await.is_ok()
    };
    let began = Instant::now();
    let ((), is_there) = tokio::join!(raw.delete_exchange(exchange), declaring);
    book.exchange_deleted(began);
    raw.close().await;
    is_there
}

/// Sends rubbish, and deletes the queue of the service.
pub async fn vandalise(raw: Raw, service: String, jobs: String, mut dice: Dice, book: Arc<Book>) {
    loop {
        dice.idle(200, 1_500).await;
        let length = dice.below(200);
        let rubbish: Vec<u8> = (0..length)
            .map(|_| u8::try_from(dice.below(256)).expect("a byte"))
            .collect();
        match dice.below(6) {
            0 => {
                book.fault("service queue deleted");
                raw.delete(&service).await;
            }
            1 | 2 => {
                book.fault("garbage job");
                let sent = raw.publish_with("", &jobs, &rubbish, BasicProperties::default());
                sent.await.expect("a confirm");
            }
            _ => {
                book.fault("garbage request");
                let properties = BasicProperties::default()
                    .with_reply_to("nobody".into())
                    .with_type("plain".into());
                let sent = raw.publish_with("", &service, &rubbish, properties);
                sent.await.expect("a confirm");
            }
        }
    }
}
