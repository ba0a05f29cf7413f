//! `tx.select`, `tx.commit` and `tx.rollback`.

use amq_protocol::{
    protocol::{AMQPClass, BasicProperties, basic, queue},
    types::{AMQPValue, FieldTable},
};

use super::{
    Peer, Site, ack, commit, confirm_select, list, long, nack, reject, rollback, select, table,
};

const NOT_TRANSACTIONAL: &str = "PRECONDITION_FAILED - channel is not transactional";

async fn transactional(site: &Site) -> Peer {
    let mut peer = site.peer().await;
    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    peer
}

/// Puts messages into a queue through another channel, and waits until they are there.
async fn fill(peer: &mut Peer, queue: &str, bodies: &[&str]) {
    peer.open(9).await;
    let before = peer.count(9, queue).await;
    for body in bodies {
        peer.publish(9, "", queue, body).await;
    }
    let all = before + u32::try_from(bodies.len()).unwrap();
    peer.until_count(9, queue, all).await;
    peer.close(9).await;
}

async fn take(peer: &mut Peer, channel: u16, queue: &str, count: usize) {
    for _ in 0..count {
        assert!(peer.get(channel, queue, false).await.is_some());
    }
}

pub(crate) async fn a_channel_is_transactional_or_confirms(site: Site) {
    let mut peer = site.peer().await;
    for (method, id) in [(commit(), 20), (rollback(), 30)] {
        let expected = format!("channel.close 406 90 {id} {NOT_TRANSACTIONAL}");
        assert_eq!(peer.ask(1, method).await, expected);
        peer.reopen(1).await;
    }
    assert_eq!(peer.ask(1, confirm_select()).await, "confirm.select-ok");
    assert_eq!(
        peer.ask(1, select()).await,
        "channel.close 406 90 10 PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    );
    peer.reopen(1).await;
    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    assert_eq!(
        peer.ask(1, confirm_select()).await,
        "channel.close 406 85 10 PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    );
    // The mode ends with the channel.
    peer.reopen(1).await;
    assert_eq!(peer.ask(1, confirm_select()).await, "confirm.select-ok");
}

pub(crate) async fn publishes_wait_for_the_commit(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    for body in ["1", "2"] {
        peer.publish(1, "", &queue, body).await;
    }
    assert_eq!(peer.count(1, &queue).await, 0);
    // Selected again, the transaction stays the same.
    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.count(1, &queue).await, 2);
    peer.publish(1, "", &queue, "dropped").await;
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    // The next transaction has begun by itself.
    peer.publish(1, "", &queue, "3").await;
    assert_eq!(peer.count(1, &queue).await, 2);
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &queue).await, ["1", "2", "3"]);
}

/// Bindings are followed when a message comes in, the names of queues are looked up at the commit.
pub(crate) async fn routes_are_those_of_the_publish(site: Site) {
    let mut peer = transactional(&site).await;
    let (late, one, two) = (site.name("late"), site.name("one"), site.name("two"));
    peer.publish(1, "", &late, "default").await;
    peer.declare(1, &late, FieldTable::default()).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &late).await, ["default"]);

    let exchange = site.name("exchange");
    peer.exchange(&exchange, "fanout", FieldTable::default())
        .await;
    peer.declare(1, &one, FieldTable::default()).await;
    peer.declare(1, &two, FieldTable::default()).await;
    peer.bind(&one, &exchange, "").await;
    peer.publish(1, &exchange, "", "bound later").await;
    peer.bind(&two, &exchange, "").await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    peer.publish(1, &exchange, "", "unbound later").await;
    let unbind = queue::AMQPMethod::Unbind(queue::Unbind {
        queue: one.as_str().into(),
        exchange: exchange.as_str().into(),
        routing_key: "".into(),
        arguments: FieldTable::default(),
    });
    assert_eq!(
        peer.ask(1, AMQPClass::Queue(unbind)).await,
        "queue.unbind-ok"
    );
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    peer.publish(1, &exchange, "", "exchange deleted").await;
    peer.delete_exchange(&exchange).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &one).await, ["bound later", "unbound later"]);
    assert_eq!(
        peer.bodies(1, &two).await,
        ["unbound later", "exchange deleted"]
    );

    // A queue that went and came back meanwhile takes what was for the one before.
    peer.publish_mandatory(1, &one, "to another").await;
    peer.delete_queue(1, &one).await;
    peer.declare(1, &one, FieldTable::default()).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &one).await, ["to another"]);
    // One that is gone does not, and the message is back at the commit.
    peer.publish_mandatory(1, &one, "gone").await;
    peer.delete_queue(1, &one).await;
    assert_eq!(peer.ask(1, commit()).await, "return 312 NO_ROUTE gone");
    assert_eq!(peer.text(1).await, "tx.commit-ok");
}

pub(crate) async fn returns_come_at_the_commit(site: Site) {
    let mut peer = transactional(&site).await;
    let (queue, missing) = (site.name("queue"), site.name("missing"));
    peer.declare(1, &queue, FieldTable::default()).await;
    for (name, body) in [(&missing, "1"), (&queue, "2"), (&missing, "3")] {
        peer.publish_mandatory(1, name, body).await;
    }
    assert_eq!(peer.count(1, &queue).await, 0);
    assert_eq!(peer.ask(1, commit()).await, "return 312 NO_ROUTE 1");
    assert_eq!(peer.text(1).await, "return 312 NO_ROUTE 3");
    assert_eq!(peer.text(1).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &queue).await, ["2"]);
    peer.publish_mandatory(1, &missing, "4").await;
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
}

pub(crate) async fn an_error_of_a_publish_comes_at_once(site: Site) {
    let mut peer = transactional(&site).await;
    let (queue, missing) = (site.name("queue"), site.name("missing"));
    peer.declare(1, &queue, FieldTable::default()).await;
    peer.publish(1, "", &queue, "never").await;
    peer.publish(1, &missing, "", "refused").await;
    assert_eq!(
        peer.text(1).await,
        format!("channel.close 404 60 40 NOT_FOUND - no exchange '{missing}' in vhost '/'")
    );
    peer.reopen(1).await;
    assert_eq!(peer.count(1, &queue).await, 0);
    assert_eq!(
        peer.ask(1, commit()).await,
        format!("channel.close 406 90 20 {NOT_TRANSACTIONAL}")
    );
}

pub(crate) async fn settlements_wait_for_the_commit(site: Site) {
    let mut peer = transactional(&site).await;
    let (queue, dead) = (site.name("queue"), site.name("dead"));
    peer.declare(1, &dead, FieldTable::default()).await;
    let arguments = table([
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long(&dead)),
    ]);
    peer.declare(1, &queue, arguments).await;
    fill(&mut peer, &queue, &["1", "2", "3", "4", "5", "6"]).await;
    take(&mut peer, 1, &queue, 6).await;
    for _ in 0..2 {
        peer.send(1, ack(2, true)).await;
        // Of one kind in a row: the dead are in their order all the same.
        peer.send(1, reject(5, false)).await;
        peer.send(1, nack(3, false, false)).await;
        peer.send(1, nack(4, false, true)).await;
        assert_eq!(peer.count(1, &queue).await, 0);
        assert_eq!(peer.count(1, &dead).await, 0);
        assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    }
    peer.send(1, ack(2, true)).await;
    peer.send(1, reject(5, false)).await;
    peer.send(1, nack(3, false, false)).await;
    peer.send(1, nack(4, false, true)).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    peer.until_count(1, &queue, 1).await;
    peer.until_count(1, &dead, 2).await;
    assert_eq!(peer.bodies(1, &queue).await, ["4"]);
    assert_eq!(peer.bodies(1, &dead).await, ["3", "5"]);
    peer.close(1).await;
    peer.open(1).await;
    peer.until_count(1, &queue, 1).await;
    let left = peer.drain(1, &queue).await;
    assert_eq!((left[0].body.as_str(), left[0].redelivered), ("6", true));
}

pub(crate) async fn a_delivery_is_settled_once(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    fill(&mut peer, &queue, &["1", "2"]).await;
    take(&mut peer, 1, &queue, 2).await;
    peer.send(1, ack(1, false)).await;
    peer.send(1, nack(1, false, true)).await;
    assert_eq!(
        peer.text(1).await,
        "channel.close 406 60 120 PRECONDITION_FAILED - unknown delivery tag 1"
    );
    // What was not committed is undone.
    peer.reopen(1).await;
    peer.until_count(1, &queue, 2).await;
    let back = peer.drain(1, &queue).await;
    assert!(back.iter().all(|message| message.redelivered));
    assert_eq!((back[0].body.as_str(), back[1].body.as_str()), ("1", "2"));
    // Nothing to settle is no error where all is meant.
    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    peer.send(1, ack(0, true)).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
}

pub(crate) async fn an_uncommitted_settlement_makes_no_room(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    fill(&mut peer, &queue, &["1", "2", "3", "4"]).await;
    peer.qos(1, 2, false).await;
    assert_eq!(peer.text(1).await, "basic.qos-ok");
    peer.consume(1, &queue, "c", false).await;
    assert_eq!(peer.text(1).await, "deliver c 1");
    assert_eq!(peer.text(1).await, "deliver c 2");
    peer.send(1, ack(1, false)).await;
    assert!(peer.settle(1, &queue).await.is_empty());
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    assert!(peer.settle(1, &queue).await.is_empty());
    peer.send(1, ack(1, false)).await;
    // The answer comes before what the room is for.
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.text(1).await, "deliver c 3");
    peer.send(1, ack(2, false)).await;
    assert!(peer.settle(1, &queue).await.is_empty());
}

/// Deliveries that are settled and not committed are no longer the channel's to give back.
pub(crate) async fn recovering_leaves_out_what_is_settled(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    fill(&mut peer, &queue, &["1", "2", "3"]).await;
    take(&mut peer, 1, &queue, 3).await;
    peer.send(1, ack(2, false)).await;
    let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: true });
    assert_eq!(
        peer.ask(1, AMQPClass::Basic(recover)).await,
        "basic.recover-ok"
    );
    peer.until_count(1, &queue, 2).await;
    // Giving back is no part of the transaction.
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    assert_eq!(peer.bodies(1, &queue).await, ["1", "3"]);
    peer.send(1, ack(2, false)).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    peer.send(1, ack(3, false)).await;
    assert_eq!(
        peer.text(1).await,
        "channel.close 406 60 80 PRECONDITION_FAILED - unknown delivery tag 3"
    );
}

pub(crate) async fn closing_rolls_back(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    fill(&mut peer, &queue, &["1", "2", "3"]).await;
    take(&mut peer, 1, &queue, 3).await;
    peer.publish(1, "", &queue, "never").await;
    peer.send(1, ack(1, false)).await;
    peer.send(1, reject(3, false)).await;
    peer.close(1).await;
    peer.open(1).await;
    peer.until_count(1, &queue, 3).await;
    let back = peer.drain(1, &queue).await;
    assert!(back.iter().all(|message| message.redelivered));
    let bodies: Vec<_> = back.iter().map(|message| message.body.as_str()).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
}

/// A queue that takes no more fails the commit; what the others took, and what was settled, stays.
pub(crate) async fn a_refused_message_fails_the_commit(site: Site) {
    let mut peer = transactional(&site).await;
    let (full, other, jobs) = (site.name("full"), site.name("other"), site.name("jobs"));
    let arguments = table([
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", long("reject-publish")),
    ]);
    peer.declare(1, &full, arguments).await;
    peer.declare(1, &other, FieldTable::default()).await;
    peer.declare(1, &jobs, FieldTable::default()).await;
    fill(&mut peer, &full, &["0"]).await;
    fill(&mut peer, &jobs, &["done", "kept"]).await;
    take(&mut peer, 1, &jobs, 2).await;
    peer.publish(1, "", &other, "1").await;
    peer.publish(1, "", &full, "2").await;
    peer.publish(1, "", &other, "3").await;
    peer.send(1, ack(1, false)).await;
    assert_eq!(
        peer.ask(1, commit()).await,
        "channel.close 406 90 20 PRECONDITION_FAILED - partial tx completion"
    );
    peer.reopen(1).await;
    assert_eq!(peer.bodies(1, &full).await, ["0"]);
    assert_eq!(peer.bodies(1, &other).await, ["1", "3"]);
    peer.until_count(1, &jobs, 1).await;
    assert_eq!(peer.bodies(1, &jobs).await, ["kept"]);
}

/// A direct reply is handed over as it comes in, whatever becomes of the transaction.
pub(crate) async fn direct_replies_do_not_wait(site: Site) {
    let mut peer = transactional(&site).await;
    peer.open(2).await;
    let queue = site.name("queue");
    peer.declare(2, &queue, FieldTable::default()).await;
    peer.consume(2, "amq.rabbitmq.reply-to", "r", true).await;
    let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    peer.publish_properties(2, "", &queue, "ask", false, properties)
        .await;
    peer.until_count(2, &queue, 1).await;
    let request = peer.get(2, &queue, true).await.unwrap();
    let address = request.properties.reply_to().clone().unwrap();
    peer.publish(1, "", address.as_str(), "answer").await;
    assert_eq!(peer.text(2).await, "deliver r answer");
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    // To a queue and, by a copy, to the address: each in its time.
    let headers = table([("CC", list(&[address.as_str()]))]);
    peer.publish_with(1, "", &queue, "copied", false, headers)
        .await;
    assert_eq!(peer.text(2).await, "deliver r copied");
    assert_eq!(peer.count(2, &queue).await, 0);
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &queue).await, ["copied"]);
}

/// A message of a transaction gets its place in a queue, and its time to live, at the commit.
pub(crate) async fn a_message_is_as_old_as_its_commit(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    let arguments = table([("x-max-length", AMQPValue::LongInt(2))]);
    peer.declare(1, &queue, arguments).await;
    peer.publish(1, "", &queue, "second").await;
    fill(&mut peer, &queue, &["dropped", "first"]).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, &queue).await, ["first", "second"]);
}

/// Getting without acknowledgement and deleting are no part of a transaction.
pub(crate) async fn other_commands_do_not_wait(site: Site) {
    let mut peer = transactional(&site).await;
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    fill(&mut peer, &queue, &["1", "2"]).await;
    assert!(peer.get(1, &queue, true).await.is_some());
    assert_eq!(peer.ask(1, rollback()).await, "tx.rollback-ok");
    assert_eq!(peer.count(1, &queue).await, 1);
    take(&mut peer, 1, &queue, 1).await;
    peer.send(1, ack(2, false)).await;
    peer.delete_queue(1, &queue).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
}
