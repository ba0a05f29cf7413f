//! Uploads on a RabbitMQ of their own, whose limit of the size of messages is small: an item that it refuses ends the
//! uploads of its caller, and nothing else.

use super::{ImporterClient, Source, Subject, imports, serve};
use futures_util::stream::{self, StreamExt};
use lepus::Connection;
use lepus_tests::node::{self, Node};
use lepus_tests::{deadline, eventually};
use std::sync::Arc;
use std::time::Duration;

/// For a node on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_the_broker_refuses_ends_uploads_alone() {
    let name = "an_item_that_the_broker_refuses_ends_uploads_alone";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        // RabbitMQ 4 reads the limit of the size when it starts, and not again.
        let setup = Node::setup().config("max_message_size = 100000");
        let node = setup.start().await;
        let (serving, calling) = (open(&node).await, open(&node).await);
        let (subject, source) = (Arc::new(Subject::default()), Source::default());
        let server = serve(&serving, &subject).start().await.unwrap();
        let importer = ImporterClient::new(&calling);
        let held = tokio::spawn(importer.hangs(source.endless(1)).into_future());
        eventually("it has begun", || async { subject.running() == 1 }).await;
        let rows = stream::iter([5, 200_000, 5]).map(|size| vec![7; size]);
        let error = importer.sizes(rows).await.unwrap_err();
        assert!(error.is_too_large(), "{error}");
        // The channel of all items was closed.
        let error = held.await.unwrap().unwrap_err();
        assert_eq!(error.amqp_code(), Some(406), "{error}");
        eventually("the methods are dropped", || async {
            subject.running() == 0
        })
        .await;
        assert_eq!(importer.echo("well".into()).await.unwrap(), "well");
        imports(&importer, &source).await;
        source.is_dropped().await;
        server.stop().await.unwrap();
    })
    .await;
}

async fn open(node: &Node) -> Connection {
    let builder = Connection::builder(node.uri()).namespace("uploads");
    builder.open().await.expect("a connection")
}
