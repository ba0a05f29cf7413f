//! Streams: items from a server to one reader, with Lepus, with a program on lapin that sends the same items and credit by
//! hand, and with one on NATS. All three read with the same window. tonic is beside them, without a broker and with a
//! window in bytes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, Stream};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use lepus::{Server, Streaming};
use tokio::sync::Mutex;

use lepus_tests::naive;

use crate::contenders::lepus as ours;
use crate::contenders::{nats, tonic};
use crate::load::Operation;
use crate::measure::{Figure, Sample};
use crate::process;
use crate::task::{Contender, Task};

/// The items of one operation.
const BATCH: u64 = 256;
/// More than any task opens.
const MOST_STREAMS: usize = 10_000;

#[lepus::service(name = "echo")]
trait Feed {
    /// The same item for as long as somebody reads.
    fn items(&self) -> impl Stream<Item = Bytes>;
    /// No item.
    fn quiet(&self) -> impl Stream<Item = Bytes>;
}

struct Source(Bytes);

impl Feed for Source {
    fn items(&self) -> impl Stream<Item = Bytes> {
        stream::repeat(self.0.clone())
    }

    fn quiet(&self) -> impl Stream<Item = Bytes> {
        stream::pending()
    }
}

/// Serves until the process ends; gives what a client has to know.
pub async fn serve(task: &Task) -> String {
    match task.contender {
        Contender::Lepus => {
            let service = FeedServer::new(Source(task.payload().into()));
            let server = Server::new(&ours::connect(task).await).serve(service);
            let server = server.streams(MOST_STREAMS).start().await;
            // It serves for as long as the process lives.
            std::mem::forget(server.expect("a server"));
        }
        Contender::Nats => serve_nats(task).await,
        Contender::Tonic => return tonic::serve(task).await,
        _ => serve_by_hand(task).await,
    }
    String::new()
}

/// Reads one stream, while so many others are open and at rest.
pub async fn client(task: &Task, window: u32, others: usize) -> Operation {
    match task.contender {
        Contender::Lepus => {
            let feed = FeedClient::new(&ours::connect(task).await);
            let _others = quiet(&feed, others).await;
            let items = feed.items().window(window).await.expect("a stream");
            let reader = OurReader {
                items,
                _feed: feed,
                _others,
            };
            reading(task, reader)
        }
        Contender::Nats => {
            let reader = NatsReader::open(task, window).await;
            reading(task, reader)
        }
        Contender::Tonic => reading(task, tonic::read(task, window).await),
        _ => {
            let reader = ReaderByHand::open(task, window).await;
            reading(task, reader)
        }
    }
}

/// A reader of a stream of items.
trait Reader: Send + 'static {
    /// Reads an item; returns its size.
    fn read(&mut self) -> impl Future<Output = usize> + Send;
}

/// An operation that reads a batch of items, each of the size of the task.
fn reading(task: &Task, reader: impl Reader) -> Operation {
    let (size, reader) = (task.case.payload, Arc::new(Mutex::new(reader)));
    let once = move || {
        let reader = Arc::clone(&reader);
        async move {
            let mut reader = reader.lock().await;
            for _ in 0..BATCH {
                assert_eq!(reader.read().await, size);
            }
        }
    };
    Operation::new(once).weighing(BATCH)
}

struct OurReader {
    items: Streaming<Bytes>,
    /// It holds the connection.
    _feed: FeedClient,
    /// Open and at rest.
    _others: Vec<Streaming<Bytes>>,
}

impl Reader for OurReader {
    async fn read(&mut self) -> usize {
        let item = self.items.next().await.expect("an item");
        item.expect("an item").len()
    }
}

async fn quiet(feed: &FeedClient, count: usize) -> Vec<Streaming<Bytes>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(feed.quiet().await.expect("a stream"));
    }
    streams
}

/// Streams at rest, and what they take of the two processes.
pub async fn at_rest(task: &Task, count: usize) -> Sample {
    let feed = FeedClient::new(&ours::connect(task).await);
    // The reply queue, the queue of streams, and all that is made once.
    let first = quiet(&feed, 1).await;
    let me = std::process::id();
    let resident = |pid: Option<u32>| pid.and_then(process::resident).unwrap_or(f64::NAN);
    let both = || [resident(Some(me)), resident(task.server)];
    let before = both();
    let streams = quiet(&feed, count).await;
    let after = both();
    drop((first, streams));
    let each = |at: usize| (after[at] - before[at]) / count as f64;
    Sample::from([
        (Figure::ClientBytes, after[0]),
        (Figure::ServerBytes, after[1]),
        (Figure::BytesInFlight, each(0)),
        (Figure::ServerBytesInFlight, each(1)),
    ])
}

/// The credit that a reader by hand gives: a half of its window at a time, as Lepus does.
struct Credit {
    window: u32,
    unread: u32,
}

impl Credit {
    fn new(window: u32) -> Self {
        Self { window, unread: 0 }
    }

    /// Notes an item, and returns the credit that is due.
    fn read(&mut self) -> Option<u32> {
        self.unread += 1;
        let is_due = self.unread >= self.window.div_ceil(2);
        is_due.then(|| std::mem::take(&mut self.unread))
    }
}

fn credit(message: &[u8]) -> u32 {
    u32::from_be_bytes(*message.first_chunk().expect("a number"))
}

async fn publish(channel: &Channel, key: ShortString, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), key, options, body, properties);
    published.await.expect("a publish");
}

async fn consume(channel: &Channel, queue: &ShortString) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default());
    consumer.await.expect("a consumer")
}

/// Sends as many items as each message of credit says, a message each.
async fn serve_by_hand(task: &Task) {
    let channel = naive::channel(&task.address).await;
    let queue = task.name("echo");
    naive::declare(&channel, &queue).await;
    let mut credits = consume(&channel, &queue.into()).await;
    let item = task.payload();
    tokio::spawn(async move {
        while let Some(message) = credits.next().await {
            let message = message.expect("credit");
            let reader = message.properties.reply_to().clone().expect("reply_to");
            for _ in 0..credit(&message.data) {
                publish(&channel, reader.clone(), &item, BasicProperties::default()).await;
            }
        }
    });
}

struct ReaderByHand {
    channel: Channel,
    server: ShortString,
    own: ShortString,
    items: Consumer,
    credit: Credit,
}

impl ReaderByHand {
    async fn open(task: &Task, window: u32) -> Self {
        let channel = naive::channel(&task.address).await;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare("".into(), exclusive, FieldTable::default());
        let own = declared.await.expect("a queue").name().clone();
        let reader = Self {
            items: consume(&channel, &own).await,
            channel,
            server: task.name("echo").into(),
            own,
            credit: Credit::new(window),
        };
        reader.grant(window).await;
        reader
    }

    async fn grant(&self, items: u32) {
        let properties = BasicProperties::default().with_reply_to(self.own.clone());
        let body = items.to_be_bytes();
        publish(&self.channel, self.server.clone(), &body, properties).await;
    }
}

impl Reader for ReaderByHand {
    async fn read(&mut self) -> usize {
        let item = self.items.next().await.expect("an item").expect("an item");
        if let Some(items) = self.credit.read() {
            self.grant(items).await;
        }
        item.data.len()
    }
}

async fn serve_nats(task: &Task) {
    let client = nats::connect(task).await;
    let mut credits = client.subscribe("echo").await.expect("a subscription");
    // Known to the server before a client reads.
    client.flush().await.expect("a connection");
    let item = Bytes::from(task.payload());
    tokio::spawn(async move {
        while let Some(message) = credits.next().await {
            let reader = message.reply.expect("a reply subject");
            for _ in 0..credit(&message.payload) {
                let published = client.publish(reader.clone(), item.clone()).await;
                published.expect("an item");
            }
        }
    });
}

struct NatsReader {
    client: async_nats::Client,
    own: String,
    items: async_nats::Subscriber,
    credit: Credit,
}

impl NatsReader {
    async fn open(task: &Task, window: u32) -> Self {
        let client = nats::connect(task).await;
        let own = client.new_inbox();
        let items = client.subscribe(own.clone()).await.expect("a subscription");
        let credit = Credit::new(window);
        let reader = Self {
            client,
            own,
            items,
            credit,
        };
        reader.grant(window).await;
        reader
    }

    async fn grant(&self, items: u32) {
        let body = Bytes::copy_from_slice(&items.to_be_bytes());
        let granted = self
            .client
            .publish_with_reply("echo", self.own.clone(), body);
        granted.await.expect("a publish");
    }
}

impl Reader for NatsReader {
    async fn read(&mut self) -> usize {
        let item = self.items.next().await.expect("an item");
        if let Some(items) = self.credit.read() {
            self.grant(items).await;
        }
        item.payload.len()
    }
}

impl Reader for ::tonic::Streaming<Bytes> {
    async fn read(&mut self) -> usize {
        let item = self.message().await.expect("an item");
        item.expect("an item").len()
    }
}
