//! Events from a publisher to one subscriber of a fanout exchange, timed from the publish to the
//! arrival. Both are in one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use lepus::Fanout;
use tokio::sync::oneshot;

use lepus_tests::naive;

use crate::contenders::lepus as ours;
use crate::load::Operation;
use crate::task::{Contender, Task};
use crate::works::jobs::in_full_of;

const EXCHANGE: &str = "events";
const NUMBER: usize = size_of::<u64>();

/// The tasks that wait for an event, by the number that it begins with.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

impl Arrivals {
    /// A new event of this size, and the news of its arrival.
    fn expect(&self, size: usize) -> (Vec<u8>, oneshot::Receiver<()>) {
        let (sender, arrival) = oneshot::channel();
        let mut table = self.0.lock().expect("no panic");
        table.last += 1;
        let number = table.last;
        table.waiting.insert(number, sender);
        let mut event = number.to_be_bytes().to_vec();
        event.resize(size.max(NUMBER), 7);
        (event, arrival)
    }

    fn arrived(&self, event: &[u8]) {
        let number = event.first_chunk().expect("a number");
        let number = u64::from_be_bytes(*number);
        let waiter = self.0.lock().expect("no panic").waiting.remove(&number);
        if let Some(waiter) = waiter {
            let _ = waiter.send(());
        }
    }
}

pub async fn client(task: &Task, confirmed: bool) -> Operation {
    match task.contender {
        Contender::Lepus => with_lepus(task, confirmed).await,
        _ => by_hand(task, confirmed).await,
    }
}

async fn with_lepus(task: &Task, confirmed: bool) -> Operation {
    let connection = ours::connect(task).await;
    let exchange = Fanout::<Vec<u8>>::bytes(EXCHANGE);
    let subscription = exchange.subscribe(&connection).stream().await;
    let mut subscription = subscription.expect("a subscription");
    let mut publisher = exchange.publisher(&connection);
    if !confirmed {
        publisher = publisher.unconfirmed();
    }
    let arrivals = Arrivals::default();
    let table = arrivals.clone();
    tokio::spawn(async move {
        while let Some(event) = subscription.next().await {
            table.arrived(event.expect("no gap").payload());
        }
    });
    let size = task.case.payload;
    Operation::new(move || {
        let (event, arrival) = arrivals.expect(size);
        let publish = publisher.publish(&event);
        async move {
            publish.await.expect("a publish");
            arrival.await.expect("an arrival");
        }
    })
}

async fn by_hand(task: &Task, confirmed: bool) -> Operation {
    let subscriber = naive::channel(&task.address).await;
    let (exchange, nothing) = (task.name(EXCHANGE), FieldTable::default);
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    subscriber
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Fanout,
            durable,
            nothing(),
        )
        .await
        .expect("an exchange");
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = subscriber
        .queue_declare("".into(), exclusive, nothing())
        .await
        .expect("a queue");
    let queue = queue.name().clone();
    let options = QueueBindOptions::default();
    subscriber
        .queue_bind(
            queue.clone(),
            exchange.as_str().into(),
            "".into(),
            options,
            nothing(),
        )
        .await
        .expect("a binding");
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut events = subscriber
        .basic_consume(queue, "".into(), options, nothing())
        .await
        .expect("a consumer");
    let arrivals = Arrivals::default();
    let table = arrivals.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            table.arrived(&event.expect("an event").data);
        }
    });
    let publisher = naive::channel(&task.address).await;
    if confirmed {
        let options = ConfirmSelectOptions::default();
        publisher
            .confirm_select(options)
            .await
            .expect("confirm mode");
    }
    let in_full = task.contender == Contender::NaiveInFull;
    let size = task.case.payload;
    Operation::new(move || {
        let (event, arrival) = arrivals.expect(size);
        let (publisher, exchange) = (publisher.clone(), exchange.clone());
        async move {
            let mut properties = BasicProperties::default();
            if in_full {
                properties = in_full_of(properties);
            }
            let confirm = publisher
                .basic_publish(
                    exchange.into(),
                    "".into(),
                    BasicPublishOptions::default(),
                    &event,
                    properties,
                )
                .await
                .expect("a publish");
            if confirmed {
                confirm.await.expect("a confirm");
            }
            arrival.await.expect("an arrival");
        }
    })
}
