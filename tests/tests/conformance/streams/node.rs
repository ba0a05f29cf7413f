//! Streams on a RabbitMQ of their own, whose limits are changed: its `consumer_timeout` does not touch them, and an item
//! that it refuses ends the streams of the server, and nothing else.

use super::{Subject, TickerClient, TickerServer, code, read, serve};
use futures_util::stream::{self, Stream};
use lepus::{Code, Connection, Server};
use lepus_tests::deadline;
use lepus_tests::eventually;
use lepus_tests::eventually::within;
use lepus_tests::node::{self, Node};
use lepus_tests::raw::{Raw, delivery};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// For a node on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn streams_outlast_the_acknowledgement_timeout() {
    let name = "streams_outlast_the_acknowledgement_timeout";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        // RabbitMQ 4 reads the limit of the size when it starts, and not again.
        let setup = Node::setup().config("max_message_size = 100000");
        let node = setup.start().await;
        for (name, value) in [("consumer_timeout", 3000), ("channel_tick_interval", 100)] {
            let set = format!("application:set_env(rabbit, {name}, {value}).");
            node.ctl(&["eval", &set]).await;
        }
        let (serving, calling) = (open(&node).await, open(&node).await);
        let subject = Arc::new(Subject::default());
        let server = serve(&serving, &subject).start().await.unwrap();
        let ticker = TickerClient::new(&calling);
        let mut numbers = ticker.forever().window(2).await.unwrap();
        let quiet = ticker.quiet().await.unwrap();
        assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
        // The second one begins when the first has ended, so that the broker has looked at the streams' channel since.
        if closes_channels(&node).await {
            for _ in 0..2 {
                a_delivery_times_out(&node).await;
            }
        }
        for expected in 1..100 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
        }
        assert_eq!((subject.open(), serving.stats().unsettled), (2, 0));
        drop((numbers, quiet));
        subject.is_left_by_all().await;
        server.stop().await.unwrap();
        an_item_that_the_broker_refuses(&node).await;
        an_item_that_the_broker_refuses_behind_the_end(&node).await;
        an_item_that_the_broker_refuses_while_the_next_one_is_made(&node).await;
    })
    .await;
}

/// Whether the broker closes the channel of a consumer that acknowledges too late. Since 4.3 it gives the message of a quorum
/// queue to somebody else instead, and lets that of a classic queue wait.
async fn closes_channels(node: &Node) -> bool {
    let version = node.ctl(&["version"]).await;
    let mut numbers = version.split('.').map(|number| number.parse::<u32>());
    let [major, minor] = [(); 2].map(|()| numbers.next().and_then(Result::ok).expect("a version"));
    (major, minor) < (4, 3)
}

/// Takes a message after the streams were opened and does not acknowledge it, until the broker closes the channel for it.
async fn a_delivery_times_out(node: &Node) {
    let raw = Raw::open(node.uri()).await;
    let queue = "sentinel";
    raw.declare(queue).await;
    raw.publish("", queue, b"never acknowledged").await;
    let mut consumer = raw.consume(queue, 1).await;
    let _unacknowledged = delivery(&mut consumer).await;
    within("the broker closes the channel", LIMIT / 4, || async {
        (!raw.channel.status().connected()).then_some(())
    })
    .await;
    // It has given the message back.
    let again = Raw::open(node.uri()).await;
    again.next(queue).await;
    again.close().await;
    raw.close().await;
}

async fn open(node: &Node) -> Connection {
    let builder = Connection::builder(node.uri()).namespace("streams");
    builder.open().await.expect("a connection")
}

async fn an_item_that_the_broker_refuses(node: &Node) {
    let (serving, calling) = (open(node).await, open(node).await);
    let subject = Arc::new(Subject::default());
    let service = TickerServer::from_arc(Arc::clone(&subject));
    let server = Server::new(&serving).serve(service).start().await.unwrap();
    let ticker = TickerClient::new(&calling);
    let held = ticker.quiet().await.unwrap();
    let (items, error) = read(ticker.sized(vec![5, 200_000, 5]).window(1).await.unwrap()).await;
    assert_eq!((items.len(), code(error)), (1, Code::Unavailable));
    // Its channel was closed, and with it what was on its way on it.
    let (none, error) = read(held).await;
    assert_eq!((none.len(), code(error)), (0, Code::Unavailable));
    assert_eq!(ticker.echo("well".into()).await.unwrap(), "well");
    // From now on the limit is known.
    let held = ticker.quiet().await.unwrap();
    let (items, error) = read(ticker.sized(vec![5, 200_000]).await.unwrap()).await;
    assert_eq!((items.len(), code(error)), (1, Code::ResourceExhausted));
    assert_eq!(subject.open(), 1);
    drop(held);
    subject.is_left_by_all().await;
    server.stop().await.unwrap();
}

/// The producer has ended when the broker refuses the item, so that the server does not know the stream any more. If the
/// channel was closed before the end was sent, the reader is told so.
async fn an_item_that_the_broker_refuses_behind_the_end(node: &Node) {
    let (serving, calling) = (open(node).await, open(node).await);
    let subject = Arc::new(Subject::default());
    let server = serve(&serving, &subject).start().await.unwrap();
    let ticker = TickerClient::new(&calling);
    let ended = ticker.sized(vec![5, 200_000, 5]).window(100).await.unwrap();
    // With a queue of its own, because the channel of the first one is closed.
    let held = eventually("another stream opens", || async { ticker.quiet().await }).await;
    let (items, error) = read(ended).await;
    let error = error.unwrap();
    let is_told = error
        .rpc()
        .is_some_and(|error| error.code() == Some(Code::Unavailable));
    assert!(
        items.len() == 1 && (error.is_disconnected() || is_told),
        "{error}"
    );
    assert_eq!(ticker.echo("well".into()).await.unwrap(), "well");
    assert_eq!((subject.open(), calling.stats().open_streams), (1, 1));
    drop(held);
    subject.is_left_by_all().await;
    server.stop().await.unwrap();
}

#[lepus::service(name = "maker")]
trait Maker {
    /// A small item, a large one, and one that is made only when the channel of those is closed.
    fn items(&self) -> impl Stream<Item = Vec<u8>>;
}

struct Making(Connection);

impl Maker for Making {
    fn items(&self) -> impl Stream<Item = Vec<u8>> {
        let (mut made, mut channels) = (0, 0);
        stream::poll_fn(move |_| {
            made += 1;
            if made < 3 {
                channels = self.0.stats().channels;
                return Poll::Ready(Some(vec![0; if made == 1 { 5 } else { 200_000 }]));
            }
            // It blocks, so that the stream is in the middle of its poll when its channel is closed.
            tokio::task::block_in_place(|| {
                while self.0.stats().channels == channels {
                    std::thread::yield_now();
                }
            });
            Poll::Ready(Some(vec![0; 5]))
        })
    }
}

/// The stream finds its channel closed before it is told so, and ends by itself.
async fn an_item_that_the_broker_refuses_while_the_next_one_is_made(node: &Node) {
    let (serving, calling) = (open(node).await, open(node).await);
    let maker = MakerServer::new(Making(serving.clone()));
    let server = Server::new(&serving).serve(maker).start().await.unwrap();
    let (items, error) = read(MakerClient::new(&calling).items().await.unwrap()).await;
    assert_eq!((items.len(), code(error)), (1, Code::Unavailable));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_after_a_restart_of_the_broker() {
    let name = "a_stream_goes_on_after_a_restart_of_the_broker";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let node = Node::start().await;
        let (serving, calling) = (open(&node).await, open(&node).await);
        let subject = Arc::new(Subject::default());
        let _server = serve(&serving, &subject).start().await.unwrap();
        let ticker = TickerClient::new(&calling);
        let call = |from| ticker.after(from).window(8);
        let mut numbers = lepus::rpc::resume(0, call, |number| number + 1);
        for expected in 0..100 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
        }
        node.restart().await;
        for expected in 100..200 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
        }
        assert!(numbers.openings() > 1);
        drop(numbers);
        subject.is_left_by_all().await;
    })
    .await;
}
