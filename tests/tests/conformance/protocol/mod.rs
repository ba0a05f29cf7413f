//! docs/protocol.md is what goes over the wire: its golden blocks, against what a peer without
//! Lepus sees of Lepus and Lepus sees of it, on both brokers.

mod control;
mod events;
mod fixture;
mod frames;
mod golden;
mod jobs;
mod rpc;
mod streams;
mod values;

use golden::Message;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lepus::Connection;
use lepus_tests::Env;
use lepus_tests::raw::Raw;

/// Every block of the page. One that no test knows is a mistake.
const BLOCKS: &[&str] = &[
    "values",
    "accepted",
    "codes",
    "rpc.request",
    "rpc.reply",
    "frames rpc.request",
    "frames rpc.reply",
    "rpc.request.json",
    "rpc.reply.application",
    "rpc.reply.status",
    "rpc.reply.details",
    "rpc.request.idempotent",
    "rpc.request.stamped",
    "rpc.request.oneway",
    "rpc.tutorial.reply",
    "rpc.request.asking",
    "rpc.reply.asked",
    "rpc.calls",
    "rpc.replies",
    "rpc.replies.details",
    "rpc.calls.headers",
    "rpc.stream.request",
    "rpc.stream.open",
    "rpc.stream.items",
    "rpc.stream.item",
    "rpc.stream.end",
    "rpc.stream.credit",
    "rpc.stream.cancel",
    "rpc.stream.probe.client",
    "rpc.stream.probe.server",
    "rpc.stream.unknown",
    "rpc.upload.request",
    "rpc.upload.open",
    "rpc.upload.items",
    "rpc.upload.item",
    "rpc.upload.end",
    "rpc.upload.credit",
    "rpc.upload.reply",
    "rpc.upload.stop",
    "queue resize",
    "queue resize.dead",
    "job",
    "job.task",
    "queue resize.retry.30000",
    "job.retry",
    "job.dead",
    "event",
    "event.typed",
    "queue orders.audit",
    "event.retry",
    "control.question",
    "control.ping",
    "control.info",
    "control.stats",
    "control.health",
    "control.cancel",
    "control.cancel.calls",
];

#[test]
fn every_block_of_the_page_is_known() {
    let names: Vec<String> = golden::blocks()
        .into_iter()
        .map(|block| block.name)
        .collect();
    assert_eq!(names, BLOCKS);
}

/// A connection in the test's own namespace.
async fn connection(env: &Env) -> Connection {
    let builder = Connection::builder(&env.uri).namespace(env.namespace());
    builder.name("hare").open().await.expect("a connection")
}

/// The next message of a queue, which has to be the golden one.
async fn next(raw: &Raw, queue: &str, namespace: &str, golden: &str) -> Delivery {
    let delivery = raw.next(queue).await.delivery;
    Message::golden(golden).assert_is(&Message::seen(&delivery, namespace));
    delivery
}

/// Publishes a golden message to a queue, which has to be there.
async fn send(raw: &Raw, queue: &str, message: &Message, properties: BasicProperties) {
    let confirm = raw.publish_with("", queue, &message.body, properties).await;
    let returned = confirm.expect("a confirm").take_message();
    assert!(returned.is_none(), "{queue} is there");
}
