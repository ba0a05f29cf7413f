//! Declarations and their arguments.

use super::{
    DECLARE_OK, DURABLE, EXCLUSIVE, PASSIVE, X_AUTO_DELETE, exclusive, nothing, number, quorum,
    socket, word,
};
use lapin::types::{AMQPValue, DecimalValue};
use lepus_tests::socket::{Answer, Socket, header, short, table};
use lepus_tests::{Env, conformance};

conformance!(
    times_to_live_reach_ten_years,
    the_values_of_arguments,
    arguments_of_other_types_of_queues,
    queues_are_declared_again,
    properties_of_quorum_queues,
    exchanges_are_declared_and_declared_again,
    arguments_of_consumers,
);

const AUTO_DELETE: u8 = 8;
const X_INTERNAL: u8 = 8;

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
