//! Streams on a RabbitMQ of their own, whose limits are changed: its `consumer_timeout` does not touch them, and an item
//! that it refuses ends the streams of the server, and nothing else.

use super::{Subject, TickerClient, TickerServer, code, read, serve};
use lepus::{Code, Connection, Server};
use lepus_tests::deadline;
use lepus_tests::node::{self, Node};
use std::sync::Arc;
use std::time::Duration;

/// For a node on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// Twice the timeout that is set below, and the interval at which the broker looks.
const LONGER: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread")]
async fn streams_outlast_the_acknowledgement_timeout() {
    let name = "streams_outlast_the_acknowledgement_timeout";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let node = Node::start().await;
        for (name, value) in [("consumer_timeout", 5000), ("channel_tick_interval", 100)] {
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
        tokio::time::sleep(LONGER).await;
        for expected in 1..100 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
        }
        assert_eq!((subject.open(), serving.stats().unsettled), (2, 0));
        drop((numbers, quiet));
        subject.is_left_by_all().await;
        server.stop().await.unwrap();
        an_item_that_the_broker_refuses(&node).await;
    })
    .await;
}

async fn open(node: &Node) -> Connection {
    let builder = Connection::builder(node.uri()).namespace("streams");
    builder.open().await.expect("a connection")
}

async fn an_item_that_the_broker_refuses(node: &Node) {
    let set = "application:set_env(rabbit, max_message_size, 100000).";
    node.ctl(&["eval", set]).await;
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
