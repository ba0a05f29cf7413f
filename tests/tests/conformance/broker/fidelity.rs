//! Frames that other clients send and Lepus does not, against both brokers: the embedded one
//! answers as RabbitMQ does.

use lapin::types::{AMQPValue, DecimalValue};
use lepus_tests::socket::{Answer, FRAME_MIN, Socket, header, long, short, table};
use lepus_tests::{Env, conformance};

conformance!(frames_and_greeting:
    a_payload_may_have_frame_max_octets,
    nothing_larger_than_4096_octets_comes_before_tune_ok,
    the_product_is_rabbitmq,
);

conformance!(names:
    line_ends_in_names_are_left_out,
    names_in_methods_are_utf8,
    names_of_messages_need_not_be_utf8,
    keys_of_tables_need_not_be_utf8,
);

conformance!(content:
    bits_that_stand_for_no_property_are_handed_on,
    properties_that_are_not_as_announced_end_the_connection,
    a_header_is_as_the_standard_has_it,
    methods_have_no_more_fields_than_they_have,
);

conformance!(declarations:
    times_to_live_reach_ten_years,
    the_values_of_arguments,
    arguments_of_other_types_of_queues,
    queues_are_declared_again,
    properties_of_quorum_queues,
    exchanges_are_declared_and_declared_again,
    arguments_of_consumers,
);

conformance!(deliveries:
    who_asks_a_quorum_queue_is_told_how_often_it_came_back,
    a_delivery_limit_below_zero_is_none_at_all_but_zero,
    a_quorum_queue_takes_reject_publish_dlx_and_drops_its_head,
);

const PASSIVE: u8 = 1;
const DURABLE: u8 = 2;
const EXCLUSIVE: u8 = 4;
const AUTO_DELETE: u8 = 8;
/// `auto_delete` and `internal` of an exchange.
const X_AUTO_DELETE: u8 = 4;
const X_INTERNAL: u8 = 8;

const DECLARE_OK: (u16, u16) = (50, 11);
const GET_OK: (u16, u16) = (60, 71);
const GET_EMPTY: (u16, u16) = (60, 72);
const RETURN: (u16, u16) = (60, 50);
const ACK: (u16, u16) = (60, 80);

/// What is not UTF-8, with a dot in it.
const NO_TEXT: &[u8] = b"a.\xff\xfe";

fn word(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", word("quorum"))
}

/// A table without an entry.
fn nothing() -> &'static [u8] {
    &[0; 4]
}

fn is(answer: &Answer, method: (u16, u16)) -> bool {
    matches!(answer, Answer::Method(found, _) if *found == method)
}

async fn socket(env: &Env) -> Socket {
    Socket::open(&env.uri, 131_072).await
}

/// A queue that ends with its connection.
async fn exclusive(socket: &mut Socket, name: &str) {
    let declared = socket.declare(name.as_bytes(), EXCLUSIVE, nothing()).await;
    assert!(is(&declared, DECLARE_OK), "{declared:?}");
}

async fn a_payload_may_have_frame_max_octets(env: Env) {
    for (size, code) in [(4088, 0), (4089, 0), (4096, 0), (4097, 501)] {
        let mut socket = Socket::open(&env.uri, FRAME_MIN).await;
        let queue = env.name(&format!("body-{size}"));
        exclusive(&mut socket, &queue).await;
        socket.confirm().await;
        let body = vec![7; size];
        let header = header(0, size, &[0, 0]);
        socket.publish(b"", queue.as_bytes(), &header, &body).await;
        assert_eq!(socket.answer().await.code(), code, "{size} octets");
        if code == 0 {
            // What the broker sends is no larger than frame_max with all that is around it.
            assert!(is(&socket.get(queue.as_bytes(), true).await, GET_OK));
            socket.answer().await;
            let mut received = Vec::new();
            while received.len() < size {
                match socket.answer().await {
                    Answer::Body(chunk) => {
                        assert!(chunk.len() <= 4088);
                        received.extend(chunk);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(received, body);
        }
        // Methods are held to the same.
        let queue = env.name(&format!("method-{size}"));
        let mut socket = Socket::open(&env.uri, FRAME_MIN).await;
        let around = [&[0; 6][..], &short(queue.as_bytes()), &[0; 5]]
            .concat()
            .len();
        let around = around + entry(b"k", &[&b"S"[..], &long(b"")].concat()).len();
        let value = [&b"S"[..], &long(&vec![b'x'; size - around])].concat();
        let arguments = long(&entry(b"k", &value));
        let declared = socket.declare(queue.as_bytes(), EXCLUSIVE, &arguments);
        assert_eq!(declared.await.code(), code, "{size} octets");
    }
}

/// An entry of a table, whatever it is.
fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    [short(key), value.to_vec()].concat()
}

async fn nothing_larger_than_4096_octets_comes_before_tune_ok(env: Env) {
    for (size, fits) in [(4096, true), (4097, false), (131_072, false)] {
        let mut socket = Socket::dial(&env.uri).await;
        socket.answer().await;
        let around = 4 + socket.start_ok(0).len();
        let start_ok = socket.start_ok(size - around);
        socket.send(0, (10, 11), &start_ok).await;
        let answer = socket.answer().await;
        if fits {
            assert!(is(&answer, (10, 30)), "{size}: {answer:?}");
        } else {
            // RabbitMQ hangs up on it without a word.
            assert!(answer.is_end(), "{size}: {answer:?}");
        }
    }
}

async fn the_product_is_rabbitmq(env: Env) {
    let mut socket = Socket::dial(&env.uri).await;
    let Answer::Method((10, 10), fields) = socket.answer().await else {
        panic!("no connection.start");
    };
    let says = |key: &str, value: &str| {
        let entry = entry(
            key.as_bytes(),
            &[b"S", &long(value.as_bytes())[..]].concat(),
        );
        fields.windows(entry.len()).any(|window| window == entry)
    };
    assert!(says("product", "RabbitMQ"));
    if env.embedded().is_some() {
        assert!(says("version", "3.10.8"));
        let version = concat!("lepus-broker ", env!("CARGO_PKG_VERSION"));
        assert!(says("implementation", version));
    }
}

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

async fn bits_that_stand_for_no_property_are_handed_on(env: Env) {
    let mut socket = socket(&env).await;
    let queue = env.name("bits");
    exclusive(&mut socket, &queue).await;
    for properties in [
        &b"\0\x01"[..],
        b"\0\x02",
        b"\x80\x03\x01a",
        b"\x80\0\x01\xff",
    ] {
        let header = header(0, 0, properties);
        socket.publish(b"", queue.as_bytes(), &header, b"").await;
        let got = socket.get(queue.as_bytes(), true).await;
        assert!(is(&got, GET_OK), "{properties:?}: {got:?}");
        assert_eq!(socket.answer().await, Answer::Header(properties.to_vec()));
    }
}

async fn properties_that_are_not_as_announced_end_the_connection(env: Env) {
    for properties in [
        &b"\0\0z"[..],
        b"\x80\0\x01az",
        b"\x80\0",
        b"\x80\0\x02a",
        b"",
        b"\0",
        b"\x20\0\0\0\0\x03\x01aQ",
        b"\x20\0\0\0\0\x09\x01aS\0\0\0\x09xx",
        // RabbitMQ's language has no number for these.
        b"\x20\0\0\0\0\x07\x01af\x7f\x80\0\0",
        b"\x20\0\0\0\0\x0b\x01ad\x7f\xf8\0\0\0\0\0\0",
        // `U` is in the standard, and not in RabbitMQ's.
        b"\x20\0\0\0\0\x05\x01aU\0\x01",
    ] {
        let mut socket = socket(&env).await;
        socket
            .publish(b"", b"q", &header(0, 0, properties), b"")
            .await;
        let expected = Answer::ConnectionClosed(541, "INTERNAL_ERROR".into());
        assert_eq!(socket.answer().await, expected, "{properties:?}");
    }
}

async fn a_header_is_as_the_standard_has_it(env: Env) {
    let whole = header(0, 1, &[0, 0]);
    let other_class = [&50_u16.to_be_bytes(), &whole[2..]].concat();
    for (header, code, text) in [
        (header(1, 1, &[0, 0]), 505, "got non content header"),
        (header(1, 0, &[0, 0]), 505, "got non content header"),
        (other_class, 505, "got one for class 50"),
        (whole[..11].to_vec(), 501, ""),
    ] {
        let mut socket = socket(&env).await;
        socket.publish(b"", b"q", &header, b"x").await;
        let answer = socket.answer().await;
        let Answer::ConnectionClosed(found, said) = &answer else {
            panic!("{header:?}: {answer:?}");
        };
        assert_eq!(*found, code, "{header:?}");
        assert!(said.contains(text), "{said}");
    }
}

async fn methods_have_no_more_fields_than_they_have(env: Env) {
    let queue = short(env.name("more").as_bytes());
    let declare = |more: &[u8]| [&[0, 0][..], &queue, &[EXCLUSIVE], nothing(), more].concat();
    for (method, fields) in [
        ((50, 10), declare(b"z")),
        (
            (60, 40),
            [&[0, 0][..], &short(b""), &queue, &[0, b'z']].concat(),
        ),
        ((60, 10), b"\0\0\0\0\0\x01\0z".to_vec()),
    ] {
        let answer = socket(&env).await.ask(method, &fields).await;
        let Answer::ConnectionClosed(501, _) = answer else {
            panic!("{method:?}: {answer:?}");
        };
    }
    // Bits that mean nothing are none of its business.
    let mut socket = socket(&env).await;
    let declared = socket.declare(&queue[1..], EXCLUSIVE | 0xe0, nothing());
    assert_eq!(declared.await.code(), 0);
}

async fn times_to_live_reach_ten_years(env: Env) {
    const TEN_YEARS: i64 = 315_360_000_000;
    let mut socket = socket(&env).await;
    for name in ["x-message-ttl", "x-expires"] {
        // The second is what Celery's delayed delivery asks for.
        for millis in [1 << 32, 134_217_728_000, TEN_YEARS] {
            let queue = env.name(&format!("{name}-{millis}"));
            let arguments = table(&[(name, number(millis))]);
            let declared = socket.declare(queue.as_bytes(), EXCLUSIVE, &arguments);
            assert_eq!(declared.await.code(), 0, "{name} {millis}");
        }
        let arguments = table(&[(name, number(TEN_YEARS + 1))]);
        let longer = env.name("longer");
        let declared = socket
            .declare(longer.as_bytes(), EXCLUSIVE, &arguments)
            .await;
        assert!(
            matches!(declared, Answer::ChannelClosed(406, _)),
            "{declared:?}"
        );
        socket.reopen().await;
    }
    let queue = env.name("expiration");
    exclusive(&mut socket, &queue).await;
    for (millis, code) in [
        ("4294967296", 0),
        ("315360000000", 0),
        ("315360000001", 406),
    ] {
        let expiration = [&[1, 0][..], &short(millis.as_bytes())].concat();
        let header = header(0, 0, &expiration);
        socket.publish(b"", queue.as_bytes(), &header, b"").await;
        // An answer to something else: the message was taken before.
        let answer = socket.get(queue.as_bytes(), true).await;
        assert_eq!(answer.code(), code, "{millis}: {answer:?}");
        if code == 0 {
            assert_eq!(socket.answer().await, Answer::Header(expiration));
        }
    }
}

/// Every kind of value, but integers.
fn no_numbers() -> Vec<AMQPValue> {
    vec![
        word("5"),
        word(""),
        AMQPValue::Boolean(true),
        AMQPValue::Double(5.0),
        AMQPValue::Float(5.0),
        AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 5 }),
        AMQPValue::Timestamp(5),
        AMQPValue::Void,
        AMQPValue::FieldTable(Default::default()),
        AMQPValue::FieldArray(Default::default()),
        AMQPValue::ByteArray(b"5".to_vec().into()),
    ]
}

fn no_words() -> Vec<AMQPValue> {
    let mut values = no_numbers();
    values.retain(|value| !matches!(value, AMQPValue::LongString(_)));
    values.push(number(1));
    values
}

/// Declares a queue for each value, and holds the reply codes against what is expected.
async fn values(
    env: &Env,
    socket: &mut Socket,
    kind: &str,
    name: &str,
    taken: Vec<AMQPValue>,
    refused: Vec<AMQPValue>,
) {
    let with_code = |values: Vec<AMQPValue>, code| values.into_iter().map(move |v| (v, code));
    for (value, code) in with_code(taken, 0).chain(with_code(refused, 406)) {
        let queue = env.name("declared");
        let mut arguments = vec![("x-queue-type", word(kind)), (name, value.clone())];
        if name == "x-dead-letter-routing-key" {
            arguments.push(("x-dead-letter-exchange", word("")));
        }
        if name == "x-queue-type" {
            arguments.remove(0);
        }
        let arguments = table(&arguments);
        let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
        assert_eq!(
            declared.code(),
            code,
            "{kind} {name} {value:?}: {declared:?}"
        );
        if code == 0 {
            assert_eq!(socket.delete(queue.as_bytes()).await.code(), 0);
        } else {
            socket.reopen().await;
        }
    }
}

async fn the_values_of_arguments(env: Env) {
    let mut socket = socket(&env).await;
    let integers = || {
        vec![
            AMQPValue::ShortShortInt(3),
            AMQPValue::ShortShortUInt(3),
            AMQPValue::ShortInt(3),
            AMQPValue::ShortUInt(3),
            AMQPValue::LongInt(3),
            AMQPValue::LongUInt(3),
        ]
    };
    let and = |mut values: Vec<AMQPValue>, more: &[i64]| {
        values.extend(more.iter().map(|n| number(*n)));
        values
    };
    let all = |words: &[&str]| words.iter().map(|text| word(text)).collect::<Vec<_>>();
    for (name, taken, refused) in [
        (
            "x-message-ttl",
            and(integers(), &[0]),
            and(no_numbers(), &[-1]),
        ),
        ("x-expires", integers(), and(no_numbers(), &[-1, 0])),
        (
            "x-max-length",
            and(integers(), &[0]),
            and(no_numbers(), &[-1]),
        ),
        (
            "x-max-length-bytes",
            and(integers(), &[0]),
            and(no_numbers(), &[-1]),
        ),
        (
            "x-max-priority",
            and(integers(), &[0, 255]),
            and(no_numbers(), &[-1, 256]),
        ),
        (
            "x-queue-version",
            and(vec![], &[1, 2]),
            and(no_numbers(), &[-1, 0, 3]),
        ),
        (
            "x-queue-mode",
            all(&["default", "lazy"]),
            [all(&["other"]), no_words()].concat(),
        ),
        (
            "x-overflow",
            all(&["drop-head", "reject-publish", "reject-publish-dlx"]),
            [all(&["other"]), no_words()].concat(),
        ),
        ("x-dead-letter-exchange", all(&["", "anywhere"]), no_words()),
        (
            "x-dead-letter-routing-key",
            all(&["", "anything"]),
            no_words(),
        ),
        (
            "x-single-active-consumer",
            vec![AMQPValue::Boolean(true), AMQPValue::Boolean(false)],
            vec![word("true"), number(1), AMQPValue::Void],
        ),
        (
            "x-queue-type",
            all(&["classic", "quorum"]),
            all(&["other", "Classic", ""]),
        ),
        (
            "x-of-no-meaning",
            [integers(), no_numbers()].concat(),
            vec![],
        ),
    ] {
        values(&env, &mut socket, "classic", name, taken, refused).await;
    }
    for (name, taken, refused) in [
        (
            "x-message-ttl",
            and(vec![], &[0]),
            and(vec![word("5")], &[-1]),
        ),
        (
            "x-expires",
            and(vec![], &[60_000]),
            and(vec![word("5")], &[-1, 0]),
        ),
        (
            "x-overflow",
            all(&["drop-head", "reject-publish", "reject-publish-dlx"]),
            [all(&["other"]), no_words()].concat(),
        ),
        (
            "x-dead-letter-strategy",
            all(&["at-most-once", "at-least-once"]),
            [all(&["other"]), no_words()].concat(),
        ),
        // RabbitMQ does not look at it.
        (
            "x-delivery-limit",
            and(
                vec![word("5"), AMQPValue::Double(2.0), AMQPValue::Void],
                &[-1, 0, 5],
            ),
            vec![],
        ),
        (
            "x-quorum-initial-group-size",
            and(vec![], &[1]),
            and(no_numbers(), &[-1, 0]),
        ),
        (
            "x-max-in-memory-length",
            and(vec![], &[0, 5]),
            and(no_numbers(), &[-1]),
        ),
        (
            "x-max-in-memory-bytes",
            and(vec![], &[0, 5]),
            and(no_numbers(), &[-1]),
        ),
        (
            "x-queue-leader-locator",
            all(&["client-local", "balanced", "random", "least-leaders"]),
            [all(&["other"]), no_words()].concat(),
        ),
    ] {
        values(&env, &mut socket, "quorum", name, taken, refused).await;
    }
}

async fn arguments_of_other_types_of_queues(env: Env) {
    let mut socket = socket(&env).await;
    for (kind, names) in [
        (
            "classic",
            &[
                "x-delivery-limit",
                "x-dead-letter-strategy",
                "x-max-in-memory-length",
                "x-max-in-memory-bytes",
                "x-quorum-initial-group-size",
                "x-queue-leader-locator",
                "x-initial-cluster-size",
                "x-max-age",
                "x-stream-max-segment-size-bytes",
            ][..],
        ),
        (
            "quorum",
            &[
                "x-max-priority",
                "x-queue-mode",
                "x-queue-version",
                "x-queue-master-locator",
                "x-initial-cluster-size",
                "x-max-age",
                "x-stream-max-segment-size-bytes",
            ],
        ),
    ] {
        for name in names {
            // Whatever the value is.
            let refused = vec![number(1), number(-1), word("other")];
            values(&env, &mut socket, kind, name, vec![], refused).await;
        }
    }
    // Values come first, and among them those of `x-expires`.
    for (arguments, named) in [
        (
            vec![("x-delivery-limit", number(1)), ("x-expires", number(0))],
            "'x-expires'",
        ),
        (
            vec![("x-message-ttl", number(-1)), ("x-expires", number(0))],
            "'x-expires'",
        ),
        (
            vec![
                ("x-dead-letter-exchange", number(1)),
                ("x-expires", number(0)),
            ],
            "invalid type 'long' for arg 'x-dead-letter-exchange'",
        ),
        (
            vec![("x-dead-letter-routing-key", word("k"))],
            "routing_key_but_no_dlx_defined",
        ),
    ] {
        let queue = env.name("named");
        let declared = socket
            .declare(queue.as_bytes(), DURABLE, &table(&arguments))
            .await;
        let Answer::ChannelClosed(406, text) = declared else {
            panic!("{arguments:?}: {declared:?}");
        };
        assert!(text.contains(named), "{text}");
        socket.reopen().await;
    }
}

async fn queues_are_declared_again(env: Env) {
    let mut socket = socket(&env).await;
    let none = Vec::new;
    let one = |name, value| vec![(name, value)];
    let at_quorum = |name, value| vec![quorum(), (name, value)];
    for (before, after, code) in [
        (
            one("x-message-ttl", number(5)),
            one("x-message-ttl", AMQPValue::LongInt(5)),
            0,
        ),
        (
            one("x-message-ttl", number(5)),
            one("x-message-ttl", number(6)),
            406,
        ),
        (
            one("x-message-ttl", number(5)),
            one("x-message-ttl", AMQPValue::Double(5.0)),
            406,
        ),
        (one("x-message-ttl", number(5)), none(), 406),
        (none(), one("x-message-ttl", number(-1)), 406),
        (none(), one("x-queue-type", word("classic")), 0),
        (one("x-queue-type", word("classic")), none(), 0),
        (none(), vec![quorum()], 406),
        (vec![quorum()], none(), 406),
        (none(), one("x-queue-mode", word("default")), 406),
        (none(), one("x-queue-version", number(1)), 406),
        (one("x-queue-version", number(2)), none(), 406),
        (
            one("x-queue-version", number(1)),
            one("x-queue-version", number(2)),
            406,
        ),
        (
            none(),
            one("x-queue-master-locator", word("min-masters")),
            406,
        ),
        (
            none(),
            one("x-single-active-consumer", AMQPValue::Boolean(false)),
            406,
        ),
        (none(), one("x-overflow", word("drop-head")), 406),
        (none(), one("x-of-no-meaning", number(1)), 0),
        // What its type of queue does not have is not compared.
        (none(), one("x-delivery-limit", number(3)), 0),
        (
            none(),
            one("x-dead-letter-strategy", word("at-least-once")),
            0,
        ),
        (vec![quorum()], at_quorum("x-queue-mode", word("lazy")), 0),
        (vec![quorum()], at_quorum("x-max-priority", number(3)), 0),
        (
            vec![quorum()],
            at_quorum("x-delivery-limit", number(3)),
            406,
        ),
        (
            at_quorum("x-delivery-limit", number(-1)),
            at_quorum("x-delivery-limit", number(-1)),
            0,
        ),
        (
            vec![quorum()],
            at_quorum("x-quorum-initial-group-size", number(1)),
            406,
        ),
        (
            vec![quorum()],
            at_quorum("x-max-in-memory-length", number(1)),
            406,
        ),
        (
            vec![quorum()],
            at_quorum("x-queue-leader-locator", word("balanced")),
            406,
        ),
        (
            vec![quorum()],
            at_quorum("x-dead-letter-strategy", word("at-least-once")),
            406,
        ),
    ] {
        let queue = env.name("again");
        let (first, second) = (table(&before), table(&after));
        let declared = socket.declare(queue.as_bytes(), DURABLE, &first).await;
        assert_eq!(declared.code(), 0, "{before:?}: {declared:?}");
        let again = socket.declare(queue.as_bytes(), DURABLE, &second).await;
        assert_eq!(again.code(), code, "{before:?}, {after:?}: {again:?}");
        if code != 0 {
            socket.reopen().await;
        }
        socket.delete(queue.as_bytes()).await;
    }
    let all = [
        0,
        DURABLE,
        EXCLUSIVE,
        DURABLE | EXCLUSIVE,
        AUTO_DELETE,
        DURABLE | AUTO_DELETE,
    ];
    for before in all {
        for after in all {
            let queue = env.name("bits");
            let declared = socket.declare(queue.as_bytes(), before, nothing()).await;
            assert_eq!(declared.code(), 0);
            let again = socket.declare(queue.as_bytes(), after, nothing()).await;
            // An exclusive queue is never durable, whatever was asked for.
            let code = match () {
                () if (before ^ after) & EXCLUSIVE != 0 => 405,
                () if (before ^ after) & AUTO_DELETE != 0 => 406,
                () if before & EXCLUSIVE != 0 || before == after => 0,
                () => 406,
            };
            assert_eq!(again.code(), code, "{before} {after}: {again:?}");
            if code != 0 {
                socket.reopen().await;
            }
            socket.delete(queue.as_bytes()).await;
        }
    }
    // The broker's own names are for nobody to declare, those that are there included.
    let named = socket.declare(b"", EXCLUSIVE, nothing()).await;
    let Answer::Method(DECLARE_OK, fields) = named else {
        panic!("{named:?}");
    };
    let name = &fields[1..1 + usize::from(fields[0])];
    assert_eq!(socket.declare(name, EXCLUSIVE, nothing()).await.code(), 403);
    socket.reopen().await;
    assert_eq!(socket.declare(name, PASSIVE, nothing()).await.code(), 0);
}

async fn properties_of_quorum_queues(env: Env) {
    let mut socket = socket(&env).await;
    let arguments = table(&[quorum()]);
    for (bits, property) in [
        (0, "'non-durable'"),
        (EXCLUSIVE, "'exclusive-owner'"),
        (DURABLE | EXCLUSIVE, "'exclusive-owner'"),
        (AUTO_DELETE, "'auto-delete'"),
        (DURABLE | AUTO_DELETE, "'auto-delete'"),
        (EXCLUSIVE | AUTO_DELETE, "'auto-delete'"),
        (DURABLE | EXCLUSIVE | AUTO_DELETE, "'auto-delete'"),
    ] {
        let name = env.name("quorum");
        for (name, expected) in [(name.as_bytes(), property), (b"", "server-named")] {
            let declared = socket.declare(name, bits, &arguments).await;
            let Answer::ChannelClosed(406, text) = declared else {
                panic!("{bits}: {declared:?}");
            };
            assert!(text.contains(expected), "{bits}: {text}");
            socket.reopen().await;
        }
    }
}

async fn exchanges_are_declared_and_declared_again(env: Env) {
    let mut socket = socket(&env).await;
    let alternate = |value| table(&[("alternate-exchange", value)]);
    for value in [word(""), word("anywhere")] {
        let name = env.name("exchange");
        let arguments = alternate(value);
        let declared = socket.declare_exchange(name.as_bytes(), "direct", DURABLE, &arguments);
        assert_eq!(declared.await.code(), 0);
        assert_eq!(socket.delete_exchange(name.as_bytes()).await.code(), 0);
    }
    for value in no_words() {
        let name = env.name("exchange");
        let arguments = alternate(value.clone());
        let declared = socket.declare_exchange(name.as_bytes(), "direct", DURABLE, &arguments);
        assert_eq!(declared.await.code(), 406, "{value:?}");
        socket.reopen().await;
    }
    let other = table(&[("x-of-no-meaning", number(-1))]);
    for (kind, bits, arguments, code) in [
        ("direct", DURABLE, nothing(), 0),
        ("direct", DURABLE, &other, 0),
        ("fanout", DURABLE, nothing(), 406),
        ("direct", 0, nothing(), 406),
        ("direct", DURABLE | X_AUTO_DELETE, nothing(), 406),
        ("direct", DURABLE | X_INTERNAL, nothing(), 406),
        ("direct", DURABLE, &alternate(word("a")), 406),
        ("direct", DURABLE, &alternate(number(5)), 406),
        ("any", PASSIVE | X_AUTO_DELETE, &alternate(number(5)), 0),
    ] {
        let name = env.name("exchange");
        let declared = socket.declare_exchange(name.as_bytes(), "direct", DURABLE, nothing());
        assert_eq!(declared.await.code(), 0);
        let again = socket.declare_exchange(name.as_bytes(), kind, bits, arguments);
        assert_eq!(again.await.code(), code, "{kind} {bits}");
        if code != 0 {
            socket.reopen().await;
        }
        assert_eq!(socket.delete_exchange(name.as_bytes()).await.code(), 0);
    }
    for (name, kind, bits, code) in [
        (&b"amq.direct"[..], "direct", DURABLE, 0),
        (b"amq.direct", "fanout", DURABLE, 406),
        (b"amq.direct", "direct", 0, 406),
        (b"amq.match", "headers", DURABLE, 0),
        (b"amq.of-no-meaning", "direct", DURABLE, 403),
        (b"", "direct", DURABLE, 403),
        (b"", "direct", PASSIVE, 403),
    ] {
        let declared = socket.declare_exchange(name, kind, bits, nothing());
        assert_eq!(declared.await.code(), code, "{name:?} {kind} {bits}");
        if code != 0 {
            socket.reopen().await;
        }
    }
    let declared = socket.declare_exchange(b"any", "of-no-meaning", DURABLE, nothing());
    assert!(matches!(declared.await, Answer::ConnectionClosed(503, _)));
}

async fn arguments_of_consumers(env: Env) {
    let mut socket = socket(&env).await;
    for kind in ["classic", "quorum"] {
        let queue = env.name(kind);
        let arguments = table(&[("x-queue-type", word(kind))]);
        let declared = socket.declare(queue.as_bytes(), DURABLE, &arguments).await;
        assert_eq!(declared.code(), 0);
        let failover = if kind == "classic" { 0 } else { 406 };
        for (name, value, code) in [
            ("x-priority", number(-5), 0),
            ("x-priority", word("1"), 406),
            ("x-priority", AMQPValue::Double(1.0), 406),
            ("x-priority", AMQPValue::Timestamp(1), 406),
            (
                "x-cancel-on-ha-failover",
                AMQPValue::Boolean(true),
                failover,
            ),
            ("x-cancel-on-ha-failover", number(1), 406),
            ("x-stream-offset", number(1), 406),
            ("x-stream-offset", word("first"), 406),
            ("x-of-no-meaning", word("any"), 0),
        ] {
            let arguments = table(&[(name, value.clone())]);
            let names = [short(queue.as_bytes()), short(b"")].concat();
            let fields = [&[0, 0][..], &names, &[0], &arguments].concat();
            let answer = socket.ask((60, 20), &fields).await;
            assert_eq!(answer.code(), code, "{kind} {name} {value:?}: {answer:?}");
            if code != 0 {
                socket.reopen().await;
            }
        }
    }
}

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
