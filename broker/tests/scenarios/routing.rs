//! Routing by several keys: that of the publish, and those of its `CC` and `BCC` headers.

use amq_protocol::types::{AMQPValue, FieldTable};

use super::{Site, list, long, table};

fn copies(name: &str, keys: &[&str]) -> FieldTable {
    table([(name, list(keys))])
}

/// An exchange that routes one of the keys has routed the message: no alternate exchange then.
pub(crate) async fn an_alternate_exchange_gets_what_no_key_routes(site: Site) {
    let mut peer = site.peer().await;
    let (exchange, alternate) = (site.name("exchange"), site.name("alternate"));
    let (routed, unrouted) = (site.name("routed"), site.name("unrouted"));
    peer.declare(1, &routed, FieldTable::default()).await;
    peer.declare(1, &unrouted, FieldTable::default()).await;
    peer.exchange(&alternate, "fanout", FieldTable::default())
        .await;
    let arguments = table([("alternate-exchange", long(&alternate))]);
    peer.exchange(&exchange, "direct", arguments).await;
    peer.bind(&unrouted, &alternate, "").await;
    peer.bind(&routed, &exchange, "known").await;
    for (key, header, copy, taken) in [
        ("known", "CC", "other", (1, 0)),
        ("other", "CC", "known", (1, 0)),
        ("other", "BCC", "known", (1, 0)),
        ("other", "CC", "another", (0, 1)),
        ("other", "BCC", "another", (0, 1)),
    ] {
        peer.publish_with(1, &exchange, key, key, false, copies(header, &[copy]))
            .await;
        let counts = (
            peer.drain(1, &routed).await.len(),
            peer.drain(1, &unrouted).await.len(),
        );
        assert_eq!(counts, taken, "{key}, {header} {copy}");
    }
    peer.delete_exchange(&exchange).await;
    peer.delete_exchange(&alternate).await;
}

/// One key takes the message to the next exchange, and another one further from there.
pub(crate) async fn a_bound_exchange_is_given_all_keys(site: Site) {
    let mut peer = site.peer().await;
    let (first, second) = (site.name("first"), site.name("second"));
    let queue = site.name("queue");
    peer.declare(1, &queue, FieldTable::default()).await;
    peer.exchange(&first, "direct", FieldTable::default()).await;
    peer.exchange(&second, "topic", FieldTable::default()).await;
    peer.bind_exchange(&second, &first, "one").await;
    peer.bind(&queue, &second, "two.*").await;
    for (key, copies, taken) in [
        ("one", copies("CC", &["two.b"]), 1),
        ("two.b", copies("BCC", &["one"]), 1),
        ("one", copies("CC", &["two.b", "two.c", "one"]), 1),
        ("two.b", copies("CC", &["two.c"]), 0),
    ] {
        peer.publish_with(1, &first, key, "body", false, copies)
            .await;
        assert_eq!(peer.drain(1, &queue).await.len(), taken, "{key}");
    }
    peer.delete_exchange(&first).await;
    peer.delete_exchange(&second).await;
}

/// The default exchange has no bindings of its own, so it routes nothing as an alternate.
pub(crate) async fn the_default_exchange_is_no_alternate(site: Site) {
    let mut peer = site.peer().await;
    let (exchange, queue) = (site.name("exchange"), site.name("queue"));
    peer.declare(1, &queue, FieldTable::default()).await;
    let arguments = table([("alternate-exchange", long(""))]);
    peer.exchange(&exchange, "direct", arguments).await;
    peer.publish_with(1, &exchange, &queue, "body", true, FieldTable::default())
        .await;
    assert_eq!(peer.text(1).await, "return 312 NO_ROUTE body");
    assert_eq!(peer.count(1, &queue).await, 0);
    peer.delete_exchange(&exchange).await;
}

/// A copy may be for a direct reply address; one that is addressed twice gets one.
pub(crate) async fn a_copy_reaches_a_direct_reply_address(site: Site) {
    let mut peer = site.peer().await;
    peer.open(2).await;
    let queue = site.name("queue");
    peer.declare(2, &queue, FieldTable::default()).await;
    peer.consume(2, "amq.rabbitmq.reply-to", "r", true).await;
    let properties = amq_protocol::protocol::BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into());
    peer.publish_properties(2, "", &queue, "ask", false, properties)
        .await;
    peer.until_count(2, &queue, 1).await;
    let request = peer.get(2, &queue, true).await.unwrap();
    let address = request.properties.reply_to().clone().unwrap();
    let headers = table([
        ("CC", list(&[address.as_str(), &queue])),
        ("BCC", list(&[address.as_str()])),
    ]);
    peer.publish_with(1, "", &queue, "copied", false, headers)
        .await;
    peer.publish(1, "", address.as_str(), "last").await;
    let copied = peer.next(2).await;
    assert_eq!(copied.text, "deliver r copied");
    assert_eq!(copied.message.unwrap().routing_key, queue);
    assert_eq!(peer.text(2).await, "deliver r last");
    assert_eq!(peer.bodies(1, &queue).await, ["copied"]);
}

/// Keys that are no texts are passed over.
pub(crate) async fn keys_that_are_no_texts_are_passed_over(site: Site) {
    let mut peer = site.peer().await;
    let (one, two) = (site.name("one"), site.name("two"));
    peer.declare(1, &one, FieldTable::default()).await;
    peer.declare(1, &two, FieldTable::default()).await;
    let keys = vec![AMQPValue::LongInt(5), long(&one), long(&two), long(&two)];
    let headers = table([("CC", AMQPValue::FieldArray(keys.into()))]);
    peer.publish_with(1, "", &one, "body", false, headers).await;
    for queue in [&one, &two] {
        assert_eq!(peer.bodies(1, queue).await, ["body"]);
    }
}
