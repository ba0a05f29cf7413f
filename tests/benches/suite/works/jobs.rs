//! Work queues: durable classic queues, persistent jobs, Lepus beside lapin by hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, PublisherConfirm};
use lepus::{Connection, Job, WorkQueue};
use tokio::sync::Notify;
use uuid::Uuid;

use lepus_tests::naive;

use crate::contenders::lepus as ours;
use crate::load::Operation;
use crate::measure::{Sample, Window};
use crate::task::{Contender, Task};

const QUEUE: &str = "jobs";
/// Jobs in one batch of `push_all`, and how many of them a publisher by hand leaves unconfirmed.
const BATCH: u64 = 5000;
const UNCONFIRMED: usize = 1024;
/// Jobs to consume, for each second asked for.
const BACKLOG: f64 = 8000.0;

fn queue() -> WorkQueue<Vec<u8>> {
    WorkQueue::bytes(QUEUE).classic()
}

/// Both sides find the same queue, declared by Lepus.
async fn declared(task: &Task) -> Connection {
    let connection = ours::connect(task).await;
    queue().declare(&connection).await.expect("a queue");
    connection
}

/// The properties that Lepus gives to a job or an event: its identity, its encoding and its time.
pub fn in_full_of(properties: BasicProperties) -> BasicProperties {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let identity = Uuid::new_v4().simple().to_string();
    properties
        .with_message_id(identity[..22].into())
        .with_content_type("application/octet-stream".into())
        .with_timestamp(now.expect("a clock").as_secs())
}

async fn confirming(task: &Task) -> Channel {
    let channel = naive::channel(&task.address).await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirm mode");
    channel
}

async fn publish(
    channel: &Channel,
    queue: &str,
    payload: &[u8],
    in_full: bool,
) -> PublisherConfirm {
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if in_full {
        properties = in_full_of(properties);
    }
    let options = BasicPublishOptions {
        mandatory: in_full,
        ..BasicPublishOptions::default()
    };
    channel
        .basic_publish("".into(), queue.into(), options, payload, properties)
        .await
        .expect("a publish")
}

pub async fn push_all(task: &Task) -> Operation {
    let connection = declared(task).await;
    let payload = task.payload();
    if task.contender == Contender::Lepus {
        let producer = queue().producer(&connection);
        let jobs = Arc::new(vec![payload; BATCH as usize]);
        return Operation::new(move || {
            let (producer, jobs) = (producer.clone(), Arc::clone(&jobs));
            // A producer does not keep its connection.
            let connection = connection.clone();
            async move {
                let _open = connection;
                for pushed in producer.push_all(jobs.iter()).await {
                    pushed.expect("a push");
                }
            }
        })
        .weighing(BATCH);
    }
    let in_full = task.contender == Contender::NaiveInFull;
    let (channel, queue) = (confirming(task).await, task.name(QUEUE));
    Operation::new(move || {
        let (channel, queue, payload) = (channel.clone(), queue.clone(), payload.clone());
        async move {
            let mut confirms = VecDeque::new();
            for _ in 0..BATCH {
                if confirms.len() == UNCONFIRMED
                    && let Some(oldest) = confirms.pop_front()
                {
                    confirmed(oldest).await;
                }
                confirms.push_back(publish(&channel, &queue, &payload, in_full).await);
            }
            for confirm in confirms {
                confirmed(confirm).await;
            }
        }
    })
    .weighing(BATCH)
}

async fn confirmed(confirm: PublisherConfirm) {
    let confirmation = confirm.await.expect("a confirm");
    assert!(confirmation.is_ack(), "{confirmation:?}");
}

pub async fn push(task: &Task) -> Operation {
    let connection = declared(task).await;
    let payload = task.payload();
    if task.contender == Contender::Lepus {
        let producer = queue().producer(&connection);
        return Operation::new(move || {
            let (push, connection) = (producer.push(&payload), connection.clone());
            async move {
                let _open = connection;
                push.await.expect("a push");
            }
        });
    }
    let in_full = task.contender == Contender::NaiveInFull;
    let (channel, queue) = (confirming(task).await, task.name(QUEUE));
    Operation::new(move || {
        let (channel, queue, payload) = (channel.clone(), queue.clone(), payload.clone());
        async move { confirmed(publish(&channel, &queue, &payload, in_full).await).await }
    })
}

/// Counts to a number, once.
struct Counter {
    left: AtomicU64,
    done: Notify,
}

impl Counter {
    fn one(&self) {
        if self.left.fetch_sub(1, Relaxed) == 1 {
            self.done.notify_one();
        }
    }
}

/// From the consumer's start to the last job of a backlog.
pub async fn consume(task: &Task) -> Sample {
    let connection = declared(task).await;
    let backlog = (BACKLOG * task.time.as_secs_f64()).max(1.0) as u64;
    let jobs = vec![task.payload(); backlog as usize];
    for pushed in queue().producer(&connection).push_all(&jobs).await {
        pushed.expect("a push");
    }
    drop(jobs);
    let counter = Arc::new(Counter {
        left: AtomicU64::new(backlog),
        done: Notify::new(),
    });
    let counting = Arc::clone(&counter);
    let prefetch = task.case.prefetch;
    if task.contender == Contender::Lepus {
        let window = Window::open(task);
        let pool = queue().worker(&connection).concurrency(prefetch);
        let handler = move |_: Job<Vec<u8>>| {
            counting.one();
            std::future::ready(())
        };
        let pool = pool.start(handler).await.expect("a pool");
        counter.done.notified().await;
        let sample = window.close(backlog);
        pool.stop().await.expect("a pool that stops");
        return sample;
    }
    connection.close().await;
    let channel = naive::channel(&task.address).await;
    let window = Window::open(task);
    let mut jobs = naive::consume(&channel, &task.name(QUEUE), prefetch).await;
    let consumer = tokio::spawn(async move {
        while let Some(job) = jobs.next().await {
            let (job, counting) = (job.expect("a job"), Arc::clone(&counting));
            tokio::spawn(async move {
                let acked = job.ack(BasicAckOptions::default()).await;
                acked.expect("an acknowledgement");
                counting.one();
            });
        }
    });
    counter.done.notified().await;
    let sample = window.close(backlog);
    consumer.abort();
    sample
}
