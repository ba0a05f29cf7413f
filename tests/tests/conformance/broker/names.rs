//! Names of queues, exchanges, keys and headers.

use super::{
    ACK, DECLARE_OK, EXCLUSIVE, GET_EMPTY, GET_OK, PASSIVE, X_AUTO_DELETE, entry, exclusive, is,
    nothing, socket,
};
use lepus_tests::socket::{Answer, header, long, short};
use lepus_tests::{Env, conformance};

conformance!(
    line_ends_in_names_are_left_out,
    names_in_methods_are_utf8,
    names_of_messages_need_not_be_utf8,
    keys_of_tables_need_not_be_utf8,
);

const RETURN: (u16, u16) = (60, 50);

/// Bytes that are not UTF-8, with a dot in them.
const NO_TEXT: &[u8] = b"a.\xff\xfe";

async fn line_ends_in_names_are_left_out(env: Env) {
    let mut socket = socket(&env).await;
    let plain = env.name("names");
    let spoilt = plain.replacen("names", "\rna\nme\r\ns", 1);
    let (plain, spoilt) = (plain.as_bytes(), spoilt.as_bytes());
    let declared = socket.declare(spoilt, EXCLUSIVE, nothing()).await;
    let Answer::Method(DECLARE_OK, fields) = declared else {
        panic!("{declared:?}");
    };
    assert!(fields.starts_with(&short(plain)));
    for name in [plain, spoilt] {
        let found = socket.declare(name, PASSIVE, nothing()).await;
        assert!(is(&found, DECLARE_OK), "{found:?}");
    }
    let declared = socket.declare_exchange(spoilt, "fanout", X_AUTO_DELETE, nothing());
    assert_eq!(declared.await.code(), 0);
    for name in [plain, spoilt] {
        let found = socket.declare_exchange(name, "fanout", PASSIVE, nothing());
        assert_eq!(found.await.code(), 0);
    }
    assert_eq!(socket.bind(spoilt, spoilt, b"k\r").await.code(), 0);
    // A message goes where its publisher says, letter by letter.
    let header = header(0, 0, &[0, 0]);
    socket.publish(b"", spoilt, &header, b"").await;
    assert!(is(&socket.answer().await, RETURN));
    socket.answer().await;
    socket.publish(plain, b"k", &header, b"").await;
    let got = socket.get(plain, true).await;
    assert!(is(&got, GET_OK), "{got:?}");
    socket.answer().await;
    assert_eq!(socket.get(spoilt, true).await.code(), 404);
    socket.reopen().await;
    socket.publish(spoilt, b"k", &header, b"").await;
    assert_eq!(socket.answer().await.code(), 404);
    socket.reopen().await;
    assert_eq!(socket.delete(spoilt).await.code(), 0);
    let gone = socket.declare(plain, PASSIVE, nothing()).await;
    assert_eq!(gone.code(), 404);
    socket.reopen().await;
    // It went with its last binding.
    let gone = socket.declare_exchange(plain, "fanout", PASSIVE, nothing());
    assert_eq!(gone.await.code(), 404);
    socket.reopen().await;
    // Nothing else is left of these: the default exchange, a name of the broker's choice.
    let refused = socket.declare_exchange(b"\r\n", "direct", 0, nothing());
    assert_eq!(refused.await.code(), 403);
    socket.reopen().await;
    assert_eq!(socket.declare(b"am\rq.x", 0, nothing()).await.code(), 403);
    socket.reopen().await;
    let named = socket.declare(b"\n", EXCLUSIVE, nothing()).await;
    assert!(
        matches!(named, Answer::Method(DECLARE_OK, fields) if fields[1..].starts_with(b"amq.gen-"))
    );
    assert_eq!(socket.declare(b"", PASSIVE, nothing()).await.code(), 404);
}

async fn names_in_methods_are_utf8(env: Env) {
    let name = short(NO_TEXT);
    let consume = |queue: &[u8], tag: &[u8]| {
        [&[0, 0][..], &short(queue), &short(tag), &[0], nothing()].concat()
    };
    for (method, fields) in [
        ((50, 10), [&[0, 0][..], &name, &[0], nothing()].concat()),
        ((50, 40), [&[0, 0][..], &name, &[0]].concat()),
        ((50, 30), [&[0, 0][..], &name, &[0]].concat()),
        ((60, 70), [&[0, 0][..], &name, &[0]].concat()),
        ((60, 20), consume(NO_TEXT, b"")),
        ((60, 20), consume(b"", NO_TEXT)),
        ((60, 30), [&name[..], &[0]].concat()),
        ((20, 40), [&[0, 200][..], &name, &[0; 4]].concat()),
    ] {
        let answer = socket(&env).await.ask(method, &fields).await;
        let Answer::ConnectionClosed(501, _) = answer else {
            panic!("{method:?}: {answer:?}");
        };
    }
    let mut socket = socket(&env).await;
    let refused = socket.bind(b"q", b"amq.topic", NO_TEXT).await;
    assert!(
        matches!(refused, Answer::ConnectionClosed(501, _)),
        "{refused:?}"
    );
}

async fn names_of_messages_need_not_be_utf8(env: Env) {
    let mut socket = socket(&env).await;
    let queue = env.name("words");
    let exchange = env.name("topic");
    exclusive(&mut socket, &queue).await;
    let (queue, exchange) = (queue.as_bytes(), exchange.as_bytes());
    let declared = socket.declare_exchange(exchange, "topic", X_AUTO_DELETE, nothing());
    assert_eq!(declared.await.code(), 0);
    assert_eq!(socket.bind(queue, exchange, b"a.*").await.code(), 0);
    let header = header(0, 1, &[0, 0]);
    socket.publish(exchange, NO_TEXT, &header, b"x").await;
    let got = socket.get(queue, true).await;
    let Answer::Method(GET_OK, fields) = got else {
        panic!("{got:?}");
    };
    let names = [short(exchange), short(NO_TEXT)].concat();
    assert!(fields[9..].starts_with(&names), "{fields:?}");
    assert_eq!(socket.answer().await, Answer::Header(vec![0, 0]));
    assert_eq!(socket.answer().await, Answer::Body(b"x".to_vec()));
    // What goes nowhere comes back as it was.
    socket.publish(b"", NO_TEXT, &header, b"x").await;
    let returned = socket.answer().await;
    let Answer::Method(RETURN, fields) = returned else {
        panic!("{returned:?}");
    };
    assert!(fields.ends_with(&[short(b""), short(NO_TEXT)].concat()));
    for _ in 0..2 {
        socket.answer().await;
    }
    socket.publish(NO_TEXT, b"k", &header, b"x").await;
    let refused = socket.answer().await;
    assert!(
        matches!(refused, Answer::ChannelClosed(404, _)),
        "{refused:?}"
    );
}

async fn keys_of_tables_need_not_be_utf8(env: Env) {
    let mut socket = socket(&env).await;
    let (queue, dead) = (env.name("keys"), env.name("keys-dead"));
    exclusive(&mut socket, &dead).await;
    let own = entry(NO_TEXT, b"t\x01");
    let arguments = long(
        &[
            own.clone(),
            entry(b"x-dead-letter-exchange", &[b"S", &long(b"")[..]].concat()),
            entry(
                b"x-dead-letter-routing-key",
                &[b"S", &long(dead.as_bytes())[..]].concat(),
            ),
            entry(b"x-message-ttl", b"b\0"),
            // Of two with one name the first counts.
            entry(b"x-message-ttl", b"V"),
        ]
        .concat(),
    );
    let declared = socket.declare(queue.as_bytes(), EXCLUSIVE, &arguments);
    assert_eq!(declared.await.code(), 0);
    // Within tables and arrays, too; and when the broker writes headers of its own.
    let inner = [&b"F"[..], &long(&own)].concat();
    let array = [&b"A"[..], &long(&inner)].concat();
    let headers = [own, entry(b"n", &inner), entry(b"o", &array)].concat();
    let properties = [&[0x20, 0][..], &long(&headers)].concat();
    socket.confirm().await;
    let header = header(0, 0, &properties);
    socket.publish(b"", queue.as_bytes(), &header, b"").await;
    assert!(is(&socket.answer().await, ACK));
    let found = loop {
        let got = socket.get(dead.as_bytes(), true).await;
        if is(&got, GET_OK) {
            break socket.answer().await;
        }
        assert!(is(&got, GET_EMPTY), "{got:?}");
    };
    let Answer::Header(found) = found else {
        panic!("{found:?}");
    };
    let holds = |part: &[u8]| found.windows(part.len()).any(|window| window == part);
    for part in [
        entry(NO_TEXT, b"t\x01"),
        entry(b"n", &inner),
        entry(b"o", &array),
        short(b"x-death"),
    ] {
        assert!(holds(&part), "{part:?} in {found:?}");
    }
}
