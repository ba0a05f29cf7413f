//! lapin with all that is known to be faster, as long as a request is acknowledged only once its
//! reply is written: a reply queue of the client's own, a channel for the requests alone, counted
//! ids, publishes that are polled once and let go, acknowledgements many at a time. No types, no
//! deadlines, no answer to a lost connection.
//!
//! In full its requests name their method, their content type and their deadline, as Lepus's do:
//! what the broker has to do for that is the same for everybody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::oneshot;

use crate::load::Operation;
use crate::task::{Contender, Task};
use lepus_tests::naive;

pub async fn serve(task: &Task) -> String {
    let channel = naive::channel(&task.address).await;
    let queue = task.name("echo");
    naive::declare(&channel, &queue).await;
    let mut requests = naive::consume(&channel, &queue, task.case.prefetch).await;
    let ledger = Arc::new(Ledger {
        channel: channel.clone(),
        batch: usize::from(task.case.prefetch).div_ceil(2),
        state: Mutex::default(),
    });
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let request = request.expect("a request");
            ledger.taken();
            let (channel, ledger) = (channel.clone(), Arc::clone(&ledger));
            tokio::spawn(async move {
                let reply_to = request.properties.reply_to().clone().expect("reply_to");
                let id = request.properties.correlation_id().clone().expect("an id");
                let properties = BasicProperties::default().with_correlation_id(id);
                let options = BasicPublishOptions::default();
                channel
                    .basic_publish("".into(), reply_to, options, &request.data, properties)
                    .await
                    .expect("a reply");
                ledger.done(request.delivery_tag);
            });
        }
    });
    String::new()
}

/// Which requests are done: a run of them is acknowledged in one frame, when it is half of the
/// prefetch or when nothing else is in hand.
struct Ledger {
    channel: Channel,
    batch: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_hand: usize,
    /// All up to this tag are acknowledged; what is done of those after it follows.
    acknowledged: u64,
    done: VecDeque<bool>,
}

impl Ledger {
    fn taken(&self) {
        self.state.lock().expect("no panic").in_hand += 1;
    }

    /// The frame is queued under the lock: a lower tag after a higher one is unknown to the broker.
    fn done(&self, tag: u64) {
        let mut state = self.state.lock().expect("no panic");
        let at = (tag - state.acknowledged - 1) as usize;
        if state.done.len() <= at {
            state.done.resize(at + 1, false);
        }
        state.done[at] = true;
        state.in_hand -= 1;
        let run = state.done.iter().take_while(|done| **done).count();
        if run >= self.batch || (state.in_hand == 0 && run > 0) {
            state.done.drain(..run);
            state.acknowledged += run as u64;
            let options = BasicAckOptions { multiple: true };
            let ack = self.channel.basic_ack(state.acknowledged, options);
            if let Some(queued) = ack.now_or_never() {
                queued.expect("an acknowledgement");
            }
        }
    }
}

#[derive(Default)]
struct Pending {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Vec<u8>>>,
}

pub async fn client(task: &Task) -> Operation {
    let connection = naive::connect(&task.address).await;
    let publish = connection.create_channel().await.expect("a channel");
    let consume = connection.create_channel().await.expect("a channel");
    let reply_to = ShortString::from(task.name(&format!("replies-{}", std::process::id())));
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    consume
        .queue_declare(reply_to.clone(), exclusive, FieldTable::default())
        .await
        .expect("a reply queue");
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut replies = consume
        .basic_consume(reply_to.clone(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer");
    let pending = Arc::new(Mutex::new(Pending::default()));
    let table = Arc::clone(&pending);
    tokio::spawn(async move {
        while let Some(reply) = replies.next().await {
            let reply = reply.expect("a reply");
            let id = reply.properties.correlation_id().as_ref().expect("an id");
            let id: u64 = id.as_str().parse().expect("a number");
            let waiter = table.lock().expect("no panic").waiting.remove(&id);
            if let Some(waiter) = waiter {
                let _ = waiter.send(reply.data);
            }
        }
    });
    tokio::spawn(watch_returns(publish.clone()));
    let (queue, payload) = (ShortString::from(task.name("echo")), task.payload());
    let common = match task.contender {
        Contender::TunedInFull => BasicProperties::default()
            .with_type("echo".into())
            .with_content_type("application/octet-stream".into())
            .with_expiration("60000".into()),
        _ => BasicProperties::default(),
    };
    let common = common.with_reply_to(reply_to);
    Operation::new(move || {
        let (sender, reply) = oneshot::channel();
        let mut pending = pending.lock().expect("no panic");
        let id = pending.next;
        pending.next += 1;
        pending.waiting.insert(id, sender);
        drop(pending);
        let (publish, queue) = (publish.clone(), queue.clone());
        let (common, payload) = (common.clone(), payload.clone());
        async move {
            let properties = common.with_correlation_id(id.to_string().into());
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let publish = publish.basic_publish("".into(), queue, options, &payload, properties);
            // Its frames are queued by the first poll; the calls in flight bound the queue.
            if let Some(queued) = publish.now_or_never() {
                queued.expect("a request");
            }
            assert_eq!(reply.await.expect("a reply").len(), payload.len());
        }
    })
}

/// Without confirm mode this gives what has come back, at once.
async fn watch_returns(channel: Channel) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        let returned = channel.wait_for_confirms().await.expect("a channel");
        assert!(returned.is_empty(), "a request came back");
    }
}
