//! Deliveries that come back, and those that are dropped.

use super::{
    ACK, DURABLE, GET_EMPTY, GET_OK, entry, exclusive, is, nothing, number, quorum, socket, word,
};
use lapin::types::AMQPValue;
use lepus_tests::socket::{Answer, Socket, header, long, short, table};
use lepus_tests::{Env, conformance};

conformance!(
    who_asks_a_quorum_queue_is_told_how_often_it_came_back,
    a_delivery_limit_below_zero_is_none_at_all_but_zero,
    a_quorum_queue_takes_reject_publish_dlx_and_drops_its_head,
);

/// Publishes one message, and waits until the queue has it.
async fn put(socket: &mut Socket, queue: &str, properties: &[u8], body: &[u8]) {
    let header = header(0, body.len(), properties);
    socket.publish(b"", queue.as_bytes(), &header, body).await;
    let confirmed = socket.answer().await;
    assert!(is(&confirmed, ACK), "{confirmed:?}");
}

/// Asks for a message until there is one: its delivery tag, its properties, its body.
async fn take(socket: &mut Socket, queue: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    loop {
        match socket.get(queue.as_bytes(), false).await {
            Answer::Method(GET_EMPTY, _) => {}
            Answer::Method(GET_OK, fields) => {
                let (Answer::Header(properties), Answer::Body(body)) =
                    (socket.answer().await, socket.answer().await)
                else {
                    panic!("no content");
                };
                return (fields[..8].to_vec(), properties, body);
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn give_back(socket: &mut Socket, tag: &[u8]) {
    socket.send(1, (60, 120), &[tag, &[2]].concat()).await;
}

/// Headers that tell how often a message came back, behind others.
fn counted(others: &[u8], count: u64) -> Vec<u8> {
    let value = [&b"l"[..], &count.to_be_bytes()].concat();
    let headers = [others, &entry(b"x-delivery-count", &value)].concat();
    [&[0x20, 0][..], &long(&headers)].concat()
}

async fn who_asks_a_quorum_queue_is_told_how_often_it_came_back(env: Env) {
    let mut socket = socket(&env).await;
    let queue = env.name("counted");
    let arguments = table(&[quorum()]);
    let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
    assert_eq!(declared.code(), 0);
    socket.confirm().await;
    let own = entry(b"a", b"t\x01");
    for (properties, others) in [
        (vec![0, 0], &[][..]),
        ([&[0x20, 0][..], &long(&own)].concat(), &own),
    ] {
        put(&mut socket, &queue, &properties, b"x").await;
        for count in 0..2 {
            let (tag, found, _) = take(&mut socket, &queue).await;
            assert_eq!(found, counted(others, count));
            give_back(&mut socket, &tag).await;
        }
        let (tag, ..) = take(&mut socket, &queue).await;
        socket.send(1, (60, 80), &[&tag[..], &[0]].concat()).await;
    }
    // A consumer is not told of a message that comes for the first time.
    put(&mut socket, &queue, &[0, 0], b"x").await;
    let names = [short(queue.as_bytes()), short(b"c")].concat();
    let consume = [&[0, 0][..], &names, &[0], nothing()].concat();
    assert!(is(&socket.ask((60, 20), &consume).await, (60, 21)));
    for expected in [vec![0, 0], counted(&[], 1)] {
        let fields = socket.expect((60, 60)).await;
        assert_eq!(socket.answer().await, Answer::Header(expected));
        socket.answer().await;
        give_back(&mut socket, &fields[2..10]).await;
    }
}

async fn a_delivery_limit_below_zero_is_none_at_all_but_zero(env: Env) {
    let mut socket = socket(&env).await;
    let dead = env.name("dead");
    exclusive(&mut socket, &dead).await;
    socket.confirm().await;
    // How often a message is had before it dies of coming back.
    for (case, (limit, lives)) in [
        (number(-1), 1),
        (number(0), 1),
        (number(1), 2),
        (AMQPValue::Double(2.5), 3),
        (AMQPValue::Timestamp(1), 2),
    ]
    .into_iter()
    .enumerate()
    {
        let queue = env.name(&format!("limited-{case}"));
        let arguments = table(&[
            quorum(),
            ("x-delivery-limit", limit.clone()),
            ("x-dead-letter-exchange", word("")),
            ("x-dead-letter-routing-key", word(&dead)),
        ]);
        let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
        assert_eq!(declared.code(), 0, "{limit:?}: {declared:?}");
        put(&mut socket, &queue, &[0, 0], b"x").await;
        for _ in 0..lives {
            let (tag, ..) = take(&mut socket, &queue).await;
            give_back(&mut socket, &tag).await;
        }
        let (_, properties, _) = take(&mut socket, &dead).await;
        let reason = entry(b"reason", &[b"S", &long(b"delivery_limit")[..]].concat());
        let is_said = properties
            .windows(reason.len())
            .any(|window| window == reason);
        assert!(is_said, "{limit:?}: {properties:?}");
    }
    // What is no number limits nothing.
    let queue = env.name("unlimited");
    let arguments = table(&[quorum(), ("x-delivery-limit", word("1"))]);
    let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
    assert_eq!(declared.code(), 0, "{declared:?}");
    put(&mut socket, &queue, &[0, 0], b"x").await;
    for _ in 0..5 {
        let (tag, ..) = take(&mut socket, &queue).await;
        give_back(&mut socket, &tag).await;
    }
}

async fn a_quorum_queue_takes_reject_publish_dlx_and_drops_its_head(env: Env) {
    let mut socket = socket(&env).await;
    let (queue, dead) = (env.name("full"), env.name("dropped"));
    exclusive(&mut socket, &dead).await;
    let arguments = table(&[
        quorum(),
        ("x-max-length", number(2)),
        ("x-overflow", word("reject-publish-dlx")),
        ("x-dead-letter-exchange", word("")),
        ("x-dead-letter-routing-key", word(&dead)),
        ("x-dead-letter-strategy", word("at-least-once")),
    ]);
    let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
    assert_eq!(declared.code(), 0, "{declared:?}");
    socket.confirm().await;
    for body in [b"0", b"1", b"2", b"3"] {
        put(&mut socket, &queue, &[0, 0], body).await;
    }
    for (from, bodies) in [(&dead, [b"0", b"1"]), (&queue, [b"2", b"3"])] {
        for expected in bodies {
            let (_, _, body) = take(&mut socket, from).await;
            assert_eq!(body, expected);
        }
    }
}
