//! Replies that no server of ours would send, or that its broker refuses.

use super::{FAIR, id, limited};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{Code, Outcome};
use lepus_tests::peer::{headers, short};
use lepus_tests::probe::{ProbeClient, RpcFixture};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance, eventually};
use std::error::Error as _;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

conformance!(
    a_reply_too_large_is_told_to_its_caller,
    a_reply_too_large_for_the_caller,
    replies_nobody_waits_for_are_dropped_and_counted,
    an_answer_to_another_call_cannot_be_made_up,
    a_reply_that_does_not_decode_fails_its_call_alone,
    a_status_nobody_knows_is_unknown,
    hints_of_a_status_that_make_no_sense_are_ignored,
);

async fn a_reply_too_large_is_told_to_its_caller(env: Env) {
    let fixture = RpcFixture::over(&env, limited(&env, 1000).await, env.connect().await).await;
    let error = fixture.probe.large(2000).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    let text = error.to_string();
    assert!(
        text.contains("the reply has 2001 bytes, the limit is 1000")
            || text.contains("the reply has 2003 bytes, the limit is 1000"),
        "{text}"
    );
    assert!(error.may_have_executed());
    fixture.is_well(&env).await;
}

async fn a_reply_too_large_for_the_caller(env: Env) {
    let fixture = RpcFixture::over(&env, env.connect().await, limited(&env, 1000).await).await;
    let error = fixture.probe.large(2000).await.unwrap_err();
    let error = error.rpc().unwrap();
    assert!(error.is_too_large() && error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::Answered));
    fixture.is_well(&env).await;
}

/// A server by hand, for replies that ours would not give.
struct Hand {
    raw: Raw,
    requests: lapin::Consumer,
}

impl Hand {
    async fn serve(env: &Env) -> Hand {
        let raw = Raw::open(&env.uri).await;
        let queue = env.name("probe");
        raw.declare(&queue).await;
        let requests = raw.consume(&queue, 10).await;
        Hand { raw, requests }
    }

    /// The next request's reply queue and correlation id.
    async fn next(&mut self) -> (String, String) {
        let request = delivery(&mut self.requests).await;
        let properties = &request.properties;
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
        let address = (
            text(properties.reply_to()),
            text(properties.correlation_id()),
        );
        request.ack(Default::default()).await.unwrap();
        address
    }

    async fn reply(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        let sent = self.raw.publish_with("", queue, body, properties).await;
        assert!(sent.unwrap().take_message().is_none(), "no reply queue");
    }
}

async fn replies_nobody_waits_for_are_dropped_and_counted(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let dropped = || calling.stats().dropped_replies;

    // Unknown ids and none, before the answer.
    let call = probe.hold(7).send().await.unwrap();
    let (queue, first) = hand.next().await;
    for unknown in [
        "999",
        "-1",
        "",
        "no number",
        "18446744073709551616",
        " 1",
        "\u{1f407}",
    ] {
        hand.reply(&queue, id(unknown), b"\x00").await;
    }
    hand.reply(&queue, BasicProperties::default(), b"\x00")
        .await;
    eventually("eight dropped", || async { dropped() == 8 }).await;
    assert_eq!(
        calling.stats().pending_calls,
        1,
        "nobody was taken for another"
    );
    // The first answer counts, its double does not.
    hand.reply(&queue, id(&first), b"\x07").await;
    hand.reply(&queue, id(&first), b"\x08").await;
    assert_eq!(call.await.unwrap(), 7);
    eventually("a double dropped", || async { dropped() == 9 }).await;

    // Late.
    let error = probe.hold(8).timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout());
    let (queue, late) = hand.next().await;
    hand.reply(&queue, id(&late), b"\x08").await;
    eventually("a late one dropped", || async { dropped() == 10 }).await;

    let call = probe.hold(9).send().await.unwrap();
    let (queue, last) = hand.next().await;
    hand.reply(&queue, id(&last), b"\x09").await;
    assert_eq!(call.await.unwrap(), 9);
    assert_eq!((dropped(), calling.stats().pending_calls), (10, 0));
}

/// A service that was called once knows the reply queue, and its own correlation id.
async fn an_answer_to_another_call_cannot_be_made_up(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let call = probe.hold(1).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let others = [2, 3].map(|id| probe.hold(id).timeout(LONG).send());
    let others = futures_util::future::join_all(others).await;
    let mut theirs = Vec::new();
    for _ in &others {
        theirs.push(hand.next().await.1);
    }
    let (mark, number) = mine.split_at(11);
    let number: u64 = number.parse().expect("a number");
    let mut forged = 0;
    for next in number..number + 4 {
        for made_up in [
            next.to_string(),
            format!("m{next}"),
            format!("00000000000{next}"),
            format!("{mark}{next}"),
            format!("{mark}m{next}"),
        ] {
            // The last two of its own number are its own to answer.
            if !(next == number && made_up.starts_with(mark)) {
                hand.reply(&queue, id(&made_up), b"\x63").await;
                forged += 1;
            }
        }
    }
    // As if several calls had been sent in its message.
    let replies = id(&format!("{mark}m{number}")).with_type("lepus.replies/1".into());
    let body = [
        &b"\x92"[..],
        b"\x94\x02\xc0\xc0\xc4\x01\x63",
        b"\x94\x03\xc0\xc0\xc4\x01\x63",
    ];
    hand.reply(&queue, replies, &body.concat()).await;
    forged += 2;
    eventually("all dropped", || async {
        let dropped = calling.stats().dropped_replies;
        if dropped == forged {
            Ok(())
        } else {
            Err(dropped)
        }
    })
    .await;
    assert_eq!(calling.stats().pending_calls, 3);
    hand.reply(&queue, id(&mine), b"\x01").await;
    assert_eq!(call.await.unwrap(), 1);
    for ((call, theirs), number) in others.into_iter().zip(theirs).zip(2..) {
        hand.reply(&queue, id(&theirs), &[number]).await;
        assert_eq!(call.unwrap().await.unwrap(), u32::from(number));
    }
}

async fn a_reply_that_does_not_decode_fails_its_call_alone(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let other = probe.hold(1).send().await.unwrap();
    let (_, others) = hand.next().await;

    let garbage: [(&str, &[u8], &str); 5] = [
        ("application/msgpack", b"\xa4text", "application/msgpack: "),
        ("application/msgpack", b"", "application/msgpack: "),
        ("application/json", b"{", "application/json: "),
        (
            "application/octet-stream",
            b"\x01",
            "application/octet-stream: ",
        ),
        (
            "application/xml",
            b"<n/>",
            "the reply is `application/xml`, the request was `application/msgpack`",
        ),
    ];
    for (content_type, body, reason) in garbage {
        let call = probe.hold(2).send().await.unwrap();
        let (queue, mine) = hand.next().await;
        hand.reply(
            &queue,
            id(&mine).with_content_type(short(content_type)),
            body,
        )
        .await;
        let error = call.await.unwrap_err();
        let error = error.rpc().unwrap();
        assert!(error.is_decode() && error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::Answered));
        let source = error.source().unwrap().to_string();
        assert!(source.starts_with(reason), "{source}");
    }
    // The method has no error of its own that this could be.
    let call = probe.hold(3).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let application = id(&mine).with_headers(headers(&[("rpc-status", "application")]));
    hand.reply(&queue, application, b"\x01").await;
    assert!(call.await.unwrap_err().is_decode());

    hand.reply(&queue, id(&others), b"\x01").await;
    assert_eq!(other.await.unwrap(), 1);
    assert_eq!(calling.stats().dropped_replies, 0);
}

async fn a_status_nobody_knows_is_unknown(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling).clone();
    let statuses = [
        (
            headers(&[("rpc-status", "teapot"), ("rpc-message", "short and stout")]),
            "teapot: short and stout",
        ),
        (headers(&[("rpc-status", "")]), ": "),
        (headers(&[("rpc-status", "NOT_FOUND")]), "NOT_FOUND: "),
    ];
    for (status, text) in statuses {
        let call = probe.hold(1).timeout(LONG).send().await.unwrap();
        let (queue, mine) = hand.next().await;
        hand.reply(&queue, id(&mine).with_headers(status), b"\x01")
            .await;
        let error = call.await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Unknown));
        assert_eq!(error.status().unwrap().message(), text);
    }
    // Headers of other types and with other names are no status.
    let call = probe.hold(4).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let odd = table(&[
        ("rpc-status", AMQPValue::LongInt(5)),
        ("x-other", AMQPValue::Void),
    ]);
    hand.reply(&queue, id(&mine).with_headers(odd), b"\x04")
        .await;
    assert_eq!(call.await.unwrap(), 4);
}

async fn hints_of_a_status_that_make_no_sense_are_ignored(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling).clone();
    let bytes = |size| AMQPValue::ByteArray(vec![7; size].into());
    let hints = [
        (AMQPValue::LongLongInt(-1), bytes(2049), None, 0),
        (AMQPValue::Double(1.5), AMQPValue::Void, None, 0),
        (
            AMQPValue::LongString("soon".into()),
            AMQPValue::LongInt(7),
            None,
            0,
        ),
        (AMQPValue::Void, bytes(2048), None, 2048),
        // A text is bytes as well.
        (
            AMQPValue::ShortInt(7),
            AMQPValue::LongString("store-7".into()),
            Some(Duration::from_millis(7)),
            7,
        ),
        (
            AMQPValue::LongLongInt(i64::MAX),
            bytes(0),
            Some(Duration::from_millis(u32::MAX.into())),
            0,
        ),
    ];
    for (retry_after, details, delay, size) in hints {
        let call = probe.hold(1).timeout(LONG).send().await.unwrap();
        let (queue, mine) = hand.next().await;
        let status = table(&[
            ("rpc-status", AMQPValue::LongString("unavailable".into())),
            ("rpc-message", AMQPValue::LongString("busy".into())),
            ("rpc-retry-after", retry_after),
            ("rpc-details", details),
        ]);
        hand.reply(&queue, id(&mine).with_headers(status), b"")
            .await;
        let error = call.await.unwrap_err();
        let status = error.status().unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "busy")
        );
        assert_eq!(
            (status.retry_after(), status.details().len()),
            (delay, size)
        );
    }
    // Beside a value they have no meaning.
    let call = probe.hold(4).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let odd = table(&[("rpc-details", bytes(3)), ("rpc-retry-after", bytes(3))]);
    hand.reply(&queue, id(&mine).with_headers(odd), b"\x04")
        .await;
    assert_eq!(call.await.unwrap(), 4);
}
