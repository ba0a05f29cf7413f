//! The rules of uploads, against callers that break them.

use super::Fixture;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use lepus::Code;
use lepus_tests::peer::{Caller, short};
use lepus_tests::{Env, conformance};

conformance!(
    more_items_than_credit_end_an_upload,
    items_out_of_order_end_an_upload,
    a_short_end_is_no_end_of_an_upload,
    an_item_that_does_not_decode_ends_an_upload,
    items_of_nobody_are_dropped,
    items_for_a_method_that_takes_none_end_it,
);

/// A caller without Lepus, whose upload is open.
struct ByHand {
    caller: Caller,
    /// The server's queue.
    own: String,
    run: String,
}

impl ByHand {
    /// Calls `import`, and waits for the opening.
    async fn open(env: &Env) -> Self {
        Self::call(env, "import", br#"{"table":"by hand"}"#).await
    }

    async fn call(env: &Env, method: &str, body: &[u8]) -> Self {
        let caller = Caller::open(env).await;
        let mut headers = FieldTable::default();
        headers.insert("rpc-stream".into(), AMQPValue::LongLongInt(1));
        let request = caller.json(method).with_headers(headers);
        caller.send(&env.name("importer"), request, body).await;
        let opened = caller.raw.next(&caller.replies).await.delivery;
        let properties = opened.properties;
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "lepus.open/1");
        // The credit, in MessagePack.
        assert_eq!(opened.data, [32]);
        let run = properties.message_id().clone().unwrap().to_string();
        Self {
            caller,
            own: properties.reply_to().clone().unwrap().to_string(),
            run: run.strip_suffix("-0").unwrap().to_owned(),
        }
    }

    async fn send(&self, kind: &str, run: &str, number: u64, body: &[u8]) {
        let properties = self.properties(kind, run, number);
        self.caller.send(&self.own, properties, body).await;
    }

    fn properties(&self, kind: &str, run: &str, number: u64) -> BasicProperties {
        self.caller
            .addressed("1")
            .with_type(short(&format!("lepus.{kind}/1")))
            .with_message_id(short(&format!("{run}-{number}")))
    }

    /// The reply is this status, and the items have ended with an error.
    async fn expect_status(self, fixture: &Fixture, code: &str) {
        let reply = self.caller.reply().await;
        assert_eq!(reply.status.as_deref(), Some(code), "{reply:?}");
        let error = fixture.subject.error().await;
        assert!(error.is_decode(), "{error}");
        fixture.is_at_rest().await;
        self.close().await;
    }

    /// Makes room for another caller.
    async fn close(self) {
        self.caller.raw.close().await;
    }
}

/// So many items in one message.
fn items(count: u8) -> Vec<u8> {
    let items = (0..count).flat_map(|item| [0xc4, 1, item]);
    [0xdc, 0, count].into_iter().chain(items).collect()
}

async fn more_items_than_credit_end_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    let by_hand = ByHand::open(&env).await;
    by_hand.send("items", &by_hand.run, 0, &items(33)).await;
    by_hand.expect_status(&fixture, "invalid_argument").await;
    assert_eq!(fixture.subject.read(), 0);
    // One after the other, to a method that does not read.
    let by_hand = ByHand::call(&env, "gated", b"{}").await;
    by_hand.send("items", &by_hand.run, 0, &items(32)).await;
    by_hand.send("item", &by_hand.run, 32, b"32").await;
    let reply = by_hand.caller.reply().await;
    assert_eq!(reply.status.as_deref(), Some("invalid_argument"));
    fixture.is_at_rest().await;
}

async fn items_out_of_order_end_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    for (second, what) in [(2, "a gap"), (0, "doubled")] {
        let by_hand = ByHand::open(&env).await;
        by_hand.send("item", &by_hand.run, 0, b"0").await;
        by_hand.send("item", &by_hand.run, second, b"1").await;
        by_hand.expect_status(&fixture, "invalid_argument").await;
        assert!(fixture.subject.read() > 0, "{what}");
    }
    let by_hand = ByHand::open(&env).await;
    by_hand.send("item", "other", 0, b"0").await;
    by_hand.expect_status(&fixture, "invalid_argument").await;
    // Not MessagePack, and a list that is cut off.
    for body in [&b"\xa1a"[..], b"\x91\xc4\x09a"] {
        let by_hand = ByHand::open(&env).await;
        by_hand.send("items", &by_hand.run, 0, body).await;
        by_hand.expect_status(&fixture, "invalid_argument").await;
    }
}

async fn a_short_end_is_no_end_of_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    for (run, number) in [(None, 2), (Some("other"), 1)] {
        let by_hand = ByHand::open(&env).await;
        by_hand.send("item", &by_hand.run, 0, b"0").await;
        let run = run.unwrap_or(&by_hand.run).to_owned();
        by_hand.send("end", &run, number, b"").await;
        by_hand.expect_status(&fixture, "invalid_argument").await;
    }
    let by_hand = ByHand::open(&env).await;
    by_hand.send("item", &by_hand.run, 0, b"0").await;
    by_hand.send("end", &by_hand.run, 1, b"").await;
    let reply = by_hand.caller.reply().await;
    assert_eq!(reply.status, None, "{reply:?}");
    fixture.is_at_rest().await;
}

async fn an_item_that_does_not_decode_ends_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    let by_hand = ByHand::open(&env).await;
    by_hand.send("item", &by_hand.run, 0, b"0").await;
    by_hand.send("item", &by_hand.run, 1, br#""one""#).await;
    let reply = by_hand.caller.reply().await;
    let (status, message) = reply.failure();
    assert_eq!(status, "invalid_argument");
    assert!(message.contains("item 1"), "{message}");
    let error = fixture.subject.error().await;
    assert!(error.is_decode(), "{error}");
    fixture.is_at_rest().await;
}

async fn items_of_nobody_are_dropped(env: Env) {
    let fixture = Fixture::start(&env).await;
    let by_hand = ByHand::call(&env, "gated", b"{}").await;
    let properties = by_hand
        .properties("item", &by_hand.run, 0)
        .with_correlation_id(short("2"));
    by_hand.caller.send(&by_hand.own, properties, b"0").await;
    // What is for another side.
    for kind in ["stop", "open", "later"] {
        by_hand.send(kind, &by_hand.run, 0, b"").await;
    }
    by_hand.send("item", &by_hand.run, 0, b"0").await;
    by_hand.send("end", &by_hand.run, 1, b"").await;
    // Items behind the end do no harm.
    by_hand.send("item", &by_hand.run, 1, b"1").await;
    fixture.subject.permits.add_permits(3);
    let reply = by_hand.caller.reply().await;
    assert_eq!((reply.status.as_deref(), &*reply.body), (None, &b"1"[..]));
    fixture.is_at_rest().await;
}

async fn items_for_a_method_that_takes_none_end_it(env: Env) {
    let ticker = super::super::Fixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let mut headers = FieldTable::default();
    headers.insert("rpc-stream".into(), AMQPValue::LongLongInt(1));
    let request = caller.json("quiet").with_headers(headers);
    caller.send(&env.name("ticker"), request, b"{}").await;
    let opened = caller.raw.next(&caller.replies).await.delivery;
    assert!(opened.data.is_empty(), "no credit");
    let properties = opened.properties;
    let own = properties.reply_to().clone().unwrap().to_string();
    let item = caller
        .addressed("1")
        .with_type(short("lepus.item/1"))
        .with_message_id(properties.message_id().clone().unwrap());
    caller.send(&own, item, b"0").await;
    let reply = caller.reply().await;
    assert_eq!(
        reply.status.as_deref(),
        Some(Code::InvalidArgument.as_str())
    );
    ticker.is_at_rest().await;
    ticker.is_well().await;
    assert_eq!(caller.waiting().await, 0);
}
