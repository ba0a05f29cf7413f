//! `basic.qos` with `global`: a prefetch that all consumers of a channel share.

use amq_protocol::types::{AMQPValue, FieldTable};

use super::{Peer, Site, ack, cancel, consume, declare, long, nack, reject, table};

/// Queues with so many messages each, named by number.
async fn filled(
    site: &Site,
    peer: &mut Peer,
    hint: &str,
    queues: usize,
    messages: u32,
) -> Vec<String> {
    let mut names = Vec::new();
    for number in 0..queues {
        let name = site.name(&format!("{hint}{number}"));
        peer.declare(1, &name, FieldTable::default()).await;
        for message in 0..messages {
            peer.publish(1, "", &name, &message.to_string()).await;
        }
        peer.until_count(1, &name, messages).await;
        names.push(name);
    }
    names
}

async fn global(peer: &mut Peer, channel: u16, prefetch: u16) {
    peer.qos(channel, prefetch, true).await;
    assert_eq!(peer.text(channel).await, "basic.qos-ok");
}

/// The next delivery: its consumer's tag with its body, and its delivery tag.
async fn delivery(peer: &mut Peer, channel: u16) -> (String, u64) {
    let answer = peer.next(channel).await;
    let text = answer.text.strip_prefix("deliver ").map(str::to_owned);
    (
        text.unwrap_or_else(|| panic!("{}", answer.text)),
        answer.message.unwrap().tag,
    )
}

/// With one place for many queues, each gets its turn.
pub(crate) async fn a_shared_prefetch_is_shared_fairly(site: Site) {
    for multiple in [false, true] {
        let mut peer = site.peer().await;
        let hint = if multiple { "multiple" } else { "single" };
        let queues = filled(&site, &mut peer, hint, 3, 150).await;
        peer.open(2).await;
        global(&mut peer, 2, 9).await;
        for (number, queue) in queues.iter().enumerate() {
            peer.send(2, consume(queue, &number.to_string(), false))
                .await;
        }
        let mut delivered = [0_u32; 3];
        let mut unacked = 0;
        while delivered.iter().sum::<u32>() < 150 {
            let answer = peer.next(2).await;
            let Some(message) = answer.message else {
                continue;
            };
            let number = answer.text.split(' ').nth(1).unwrap();
            delivered[number.parse::<usize>().unwrap()] += 1;
            unacked += 1;
            assert!(unacked <= 9, "more than the prefetch");
            if !multiple {
                peer.send(2, ack(message.tag, false)).await;
                unacked -= 1;
            } else if unacked == 9 {
                peer.send(2, ack(0, true)).await;
                unacked = 0;
            }
        }
        // RabbitMQ draws lots, so the shares differ.
        assert!(delivered.iter().all(|count| *count >= 10), "{delivered:?}");
    }
}

pub(crate) async fn a_consumer_without_acknowledgements_waits_for_room(site: Site) {
    let mut peer = site.peer().await;
    let queues = filled(&site, &mut peer, "queue", 2, 3).await;
    peer.open(2).await;
    global(&mut peer, 2, 2).await;
    peer.consume(2, &queues[0], "a", false).await;
    assert_eq!(delivery(&mut peer, 2).await.0, "a 0");
    let (text, last) = delivery(&mut peer, 2).await;
    assert_eq!(text, "a 1");
    peer.consume(2, &queues[1], "n", true).await;
    assert!(peer.settle(2, &queues[1]).await.is_empty());
    // The third would take the room again.
    assert_eq!(peer.ask(2, cancel("a")).await, "basic.cancel-ok a");
    peer.send(2, ack(last, false)).await;
    for body in ["n 0", "n 1", "n 2"] {
        // It takes no place of its own.
        assert_eq!(delivery(&mut peer, 2).await.0, body);
    }
    assert_eq!(peer.count(1, &queues[0]).await, 1);
}

/// Setting a prefetch for consumers to come ends the one that is shared, as 0 does.
pub(crate) async fn a_shared_prefetch_ends(site: Site) {
    for (hint, prefetch, is_global) in [("one", 1, false), ("none", 0, false), ("global", 0, true)]
    {
        let mut peer = site.peer().await;
        let queues = filled(&site, &mut peer, hint, 1, 4).await;
        peer.open(2).await;
        global(&mut peer, 2, 2).await;
        peer.consume(2, &queues[0], "a", false).await;
        for body in ["a 0", "a 1"] {
            assert_eq!(delivery(&mut peer, 2).await.0, body);
        }
        assert!(peer.settle(2, &queues[0]).await.is_empty());
        peer.qos(2, prefetch, is_global).await;
        let mut rest = Vec::new();
        while rest.len() < 3 {
            rest.push(peer.text(2).await);
        }
        rest.sort();
        assert_eq!(rest, ["basic.qos-ok", "deliver a 2", "deliver a 3"]);
    }
}

/// A message that was got counts while a shared prefetch is set anew, and is never taken off; one that is got
/// afterwards does not count.
pub(crate) async fn gotten_messages_count_when_it_is_set(site: Site) {
    let mut peer = site.peer().await;
    let queues = filled(&site, &mut peer, "queue", 1, 7).await;
    peer.open(2).await;
    let got = peer.get(2, &queues[0], false).await.unwrap();
    global(&mut peer, 2, 2).await;
    assert!(peer.get(2, &queues[0], false).await.is_some());
    peer.consume(2, &queues[0], "a", false).await;
    let (text, _) = delivery(&mut peer, 2).await;
    assert_eq!(text, "a 2");
    assert!(peer.settle(2, &queues[0]).await.is_empty());
    peer.send(2, ack(got.tag, false)).await;
    assert!(peer.settle(2, &queues[0]).await.is_empty());
    // Raised, it goes on counting from there; ended and set again, it counts what there is.
    global(&mut peer, 2, 3).await;
    assert_eq!(delivery(&mut peer, 2).await.0, "a 3");
    assert!(peer.settle(2, &queues[0]).await.is_empty());
    assert_eq!(peer.ask(2, cancel("a")).await, "basic.cancel-ok a");
    global(&mut peer, 2, 0).await;
    global(&mut peer, 2, 4).await;
    peer.consume(2, &queues[0], "b", false).await;
    assert_eq!(delivery(&mut peer, 2).await.0, "b 4");
    assert!(peer.settle(2, &queues[0]).await.is_empty());
}

/// A rejected delivery makes room as well, for the queue it goes back to as for the others.
///
/// RabbitMQ's channel tells the queue of the message and the limiter of the room, and the limiter
/// tells the queue: by two ways, so that the room may come first and the next message with it.
/// Either is delivered, one at a time.
pub(crate) async fn what_is_given_back_makes_room(site: Site) {
    let mut peer = site.peer().await;
    let queues = filled(&site, &mut peer, "queue", 1, 2).await;
    peer.open(2).await;
    global(&mut peer, 2, 1).await;
    peer.consume(2, &queues[0], "a", false).await;
    let (text, tag) = delivery(&mut peer, 2).await;
    assert_eq!(text, "a 0");
    peer.send(2, reject(tag, true)).await;
    let mut rest = Vec::new();
    for _ in 0..2 {
        let (text, tag) = delivery(&mut peer, 2).await;
        assert!(peer.settle(2, &queues[0]).await.is_empty());
        peer.send(2, reject(tag, false)).await;
        rest.push(text);
    }
    rest.sort();
    assert_eq!(rest, ["a 0", "a 1"]);
}

/// A classic queue that gets back more than its length lets go of the oldest before it delivers
/// again; a quorum queue delivers first.
pub(crate) async fn what_is_given_back_is_held_to_the_length(site: Site) {
    for (hint, kind, again) in [
        ("classic", "classic", &["c 2"][..]),
        ("quorum", "quorum", &["c 1", "c 2"]),
    ] {
        let mut peer = site.peer().await;
        let queue = site.name(hint);
        let arguments = table([
            ("x-queue-type", long(kind)),
            ("x-max-length", AMQPValue::LongInt(1)),
        ]);
        peer.declare(1, &queue, arguments).await;
        peer.qos(1, 2, false).await;
        assert_eq!(peer.text(1).await, "basic.qos-ok");
        peer.consume(1, &queue, "c", false).await;
        let mut last = 0;
        for body in ["1", "2"] {
            peer.publish(1, "", &queue, body).await;
            let (text, tag) = delivery(&mut peer, 1).await;
            assert_eq!(text, format!("c {body}"));
            last = tag;
        }
        peer.send(1, nack(last, true, true)).await;
        for body in again {
            assert_eq!(delivery(&mut peer, 1).await.0, *body);
        }
        assert!(peer.settle(1, &queue).await.is_empty());
    }
}

/// Quorum queues take part in no shared prefetch. Their acknowledgements do, though.
pub(crate) async fn quorum_queues_know_no_shared_prefetch(site: Site) {
    let mut peer = site.peer().await;
    let classic = filled(&site, &mut peer, "queue", 1, 4).await.remove(0);
    let quorum = site.name("quorum");
    let arguments = table([("x-queue-type", long("quorum"))]);
    peer.declare(1, &quorum, arguments).await;
    peer.open(2).await;
    peer.consume(2, &quorum, "q", false).await;
    global(&mut peer, 2, 2).await;
    for body in ["0", "1", "2"] {
        peer.publish(1, "", &quorum, body).await;
    }
    let mut last = 0;
    for body in ["q 0", "q 1", "q 2"] {
        let (text, tag) = delivery(&mut peer, 2).await;
        assert_eq!(text, body);
        last = tag;
    }
    peer.consume(2, &classic, "c", false).await;
    for body in ["c 0", "c 1"] {
        assert_eq!(delivery(&mut peer, 2).await.0, body);
    }
    assert!(peer.settle(2, &classic).await.is_empty());
    peer.send(2, ack(last, false)).await;
    assert_eq!(delivery(&mut peer, 2).await.0, "c 2");
    assert!(peer.settle(2, &classic).await.is_empty());

    peer.open(3).await;
    global(&mut peer, 3, 1).await;
    peer.send(3, consume(&quorum, "x", false)).await;
    let close = peer.text(0).await;
    assert_eq!(
        close,
        format!(
            "connection.close 540 60 20 NOT_IMPLEMENTED - queue '{quorum}' in vhost '/' does not \
             support global qos"
        )
    );
    let mut peer = site.peer().await;
    let answer = peer
        .ask(1, declare(&quorum, true, FieldTable::default()))
        .await;
    assert!(answer.starts_with("queue.declare-ok"), "{answer}");
}
