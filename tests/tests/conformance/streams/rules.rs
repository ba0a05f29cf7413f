//! The rules of the protocol, against peers that break them.

use super::{Fixture, LONG, TickerClient, read};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use lepus_tests::peer::{Caller, short};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};

conformance!(
    a_sleeping_reader_holds_no_more_than_its_window,
    a_stalled_reader_delays_nobody,
    more_items_than_credit_end_a_stream,
    items_out_of_order_end_a_stream,
    a_short_end_is_no_end,
    credit_is_a_total_that_may_be_lost_or_doubled,
    an_unknown_stream_is_refused,
);

async fn a_sleeping_reader_holds_no_more_than_its_window(env: Env) {
    let fixture = Fixture::start(&env).await;
    let mut numbers = fixture.ticker.forever().window(10).await.unwrap();
    // The window is full, and nobody reads.
    fixture.has_produced(10).await;
    for expected in 0..5 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), expected);
    }
    // The half that was read.
    fixture.has_produced(15).await;
}

async fn a_stalled_reader_delays_nobody(env: Env) {
    let fixture = Fixture::start(&env).await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        stalled.push(fixture.ticker.forever().window(1000).await.unwrap());
    }
    for _ in 0..20 {
        fixture.is_well().await;
    }
    let (numbers, error) = read(fixture.ticker.count(2000).await.unwrap()).await;
    assert!(error.is_none() && numbers.len() == 2000);
    drop(stalled);
    fixture.is_at_rest().await;
}

/// A server without Lepus, and a call of it.
struct ByHand {
    raw: Raw,
    ticker: TickerClient,
    calling: lepus::Connection,
    queue: String,
    /// Its queue for credit.
    own: String,
}

/// A request that it has taken.
struct Taken {
    reply_to: String,
    correlation_id: String,
    credit: Option<i64>,
}

impl ByHand {
    async fn new(env: &Env) -> Self {
        let calling = env.connect().await;
        let raw = Raw::open(&env.uri).await;
        let (queue, own) = (env.name("ticker"), env.name("own"));
        raw.declare(&queue).await;
        raw.declare_exclusive(&own).await;
        Self {
            ticker: TickerClient::new(&calling),
            raw,
            calling,
            queue,
            own,
        }
    }

    async fn take(&self) -> Taken {
        let taken = self.raw.next(&self.queue).await.delivery;
        let text = |text: &Option<lapin::types::ShortString>| text.clone().unwrap().to_string();
        let headers = taken.properties.headers().clone().unwrap_or_default();
        let credit = match headers.inner().get("rpc-stream") {
            Some(AMQPValue::LongLongInt(credit)) => Some(*credit),
            _ => None,
        };
        Taken {
            reply_to: text(taken.properties.reply_to()),
            correlation_id: text(taken.properties.correlation_id()),
            credit,
        }
    }

    async fn send(&self, taken: &Taken, kind: Option<&str>, message_id: &str, body: &[u8]) {
        let mut properties = BasicProperties::default()
            .with_correlation_id(short(&taken.correlation_id))
            .with_message_id(short(message_id))
            .with_reply_to(short(&self.own));
        if let Some(kind) = kind {
            properties = properties.with_type(short(kind));
        }
        let sent = self.raw.publish_with("", &taken.reply_to, body, properties);
        sent.await.unwrap();
    }

    /// Opens a stream with these messages, and reads it.
    async fn streamed(
        &self,
        messages: &[(Option<&str>, &str, &[u8])],
    ) -> (Vec<u64>, Option<lepus::CallError>) {
        let ticker = self.ticker.clone();
        let reading = tokio::spawn(async move {
            let numbers = ticker.count(9).window(4).timeout(LONG).await.unwrap();
            read(numbers).await
        });
        let taken = self.take().await;
        assert_eq!(taken.credit, Some(4));
        for (kind, message_id, body) in messages {
            self.send(&taken, *kind, message_id, body).await;
        }
        reading.await.unwrap()
    }

    /// The next message to this server.
    async fn next(&self) -> (String, Vec<u8>) {
        let taken = self.raw.next(&self.own).await.delivery;
        let kind = taken.properties.kind().clone().unwrap().to_string();
        (kind, taken.data)
    }
}

const ITEM: Option<&str> = Some("lepus.item/1");
const ITEMS: Option<&str> = Some("lepus.items/1");
const OPEN: Option<&str> = Some("lepus.open/1");

async fn more_items_than_credit_end_a_stream(env: Env) {
    let server = ByHand::new(&env).await;
    let five = b"\x95\xc4\x01\x00\xc4\x01\x01\xc4\x01\x02\xc4\x01\x03\xc4\x01\x04";
    let (numbers, error) = server.streamed(&[(ITEMS, "run-0", five)]).await;
    let error = error.unwrap();
    assert!(numbers.is_empty() && error.is_decode(), "{error}");
    assert_eq!(server.next().await.0, "lepus.cancel/1");
    assert_eq!(server.calling.stats().open_streams, 0);
}

async fn items_out_of_order_end_a_stream(env: Env) {
    let server = ByHand::new(&env).await;
    for (second, what) in [
        ("run-2", "a gap"),
        ("run-0", "doubled"),
        ("other-1", "a foreign run"),
    ] {
        let messages = [
            (OPEN, "run-0", &b""[..]),
            (ITEM, "run-0", b"\x00"),
            (ITEM, second, b"\x01"),
        ];
        let (numbers, error) = server.streamed(&messages).await;
        assert_eq!(numbers, [0], "{what}");
        let error = error.unwrap();
        assert!(error.is_decode(), "{what}: {error}");
        assert_eq!(server.next().await.0, "lepus.cancel/1", "{what}");
    }
    let malformed = [(ITEMS, "run-0", &b"\x91\xa1a"[..])];
    let (numbers, error) = server.streamed(&malformed).await;
    assert!(numbers.is_empty() && error.unwrap().is_decode());
}

async fn a_short_end_is_no_end(env: Env) {
    let server = ByHand::new(&env).await;
    for end in ["run-2", "other-1", "run", ""] {
        let messages = [(ITEM, "run-0", &b"\x00"[..]), (None, end, b"\xc0")];
        let (numbers, error) = server.streamed(&messages).await;
        assert!(numbers.len() == 1 && error.unwrap().is_decode(), "{end}");
    }
    let messages = [(ITEM, "run-0", &b"\x00"[..]), (None, "run-1", b"\xc0")];
    let (numbers, error) = server.streamed(&messages).await;
    assert!(numbers.len() == 1 && error.is_none());
}

async fn credit_is_a_total_that_may_be_lost_or_doubled(env: Env) {
    let fixture = Fixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let mut headers = FieldTable::default();
    headers.insert("rpc-stream".into(), AMQPValue::LongLongInt(2));
    let request = caller.json("forever").with_headers(headers);
    caller.send(&env.name("ticker"), request, b"{}").await;
    let first = caller.raw.next(&caller.replies).await.delivery;
    let properties = first.properties;
    assert_eq!(
        properties.kind().as_ref().unwrap().as_str(),
        "lepus.items/1"
    );
    let own = properties.reply_to().clone().unwrap().to_string();
    let run = properties.message_id().clone().unwrap().to_string();
    let run = run.strip_suffix("-0").unwrap().to_owned();
    let credit = |run: String, body: &'static [u8]| {
        let properties = caller
            .addressed("1")
            .with_type(short("lepus.credit/1"))
            .with_message_id(short(&format!("{run}-0")));
        caller.send(&own, properties, body)
    };
    // Of another run, less than before, and what is no credit.
    credit("other".into(), b"\x64").await;
    credit(run.clone(), b"\x01").await;
    credit(run.clone(), b"\xa1x").await;
    credit(run.clone(), b"\x03").await;
    credit(run.clone(), b"\x03").await;
    let next = caller.raw.next(&caller.replies).await.delivery;
    assert_eq!(
        next.properties.kind().as_ref().unwrap().as_str(),
        "lepus.item/1"
    );
    assert_eq!(
        next.properties.message_id().clone().unwrap().to_string(),
        format!("{run}-2")
    );
    // Read behind the credit: all of it has had its effect.
    let probe = caller
        .addressed("2")
        .with_type(short("lepus.probe/1"))
        .with_message_id(short("other-0"));
    caller.send(&own, probe, b"").await;
    let reply = caller.reply().await;
    assert_eq!(reply.correlation_id.as_deref(), Some("2"), "{reply:?}");
    fixture.has_produced(3).await;
    assert_eq!(caller.waiting().await, 0);
    // Cancelled by hand: an array of the ids.
    let cancel = BasicProperties::default()
        .with_reply_to(short(&caller.replies))
        .with_type(short("lepus.cancel/1"))
        .with_expiration("10000".into());
    caller.send(&own, cancel, b"\x91\xa11").await;
    fixture.is_at_rest().await;
}

async fn an_unknown_stream_is_refused(env: Env) {
    let fixture = Fixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let mut headers = FieldTable::default();
    headers.insert("rpc-stream".into(), AMQPValue::LongLongInt(1));
    let request = caller.json("quiet").with_headers(headers);
    caller.send(&env.name("ticker"), request, b"{}").await;
    let opened = caller.raw.next(&caller.replies).await.delivery.properties;
    assert_eq!(opened.kind().as_ref().unwrap().as_str(), "lepus.open/1");
    let own = opened.reply_to().clone().unwrap().to_string();
    let probe = |correlation_id: &str, run: String| {
        let properties = caller
            .addressed(correlation_id)
            .with_type(short("lepus.probe/1"))
            .with_message_id(short(&run));
        caller.send(&own, properties, b"")
    };
    // One that is known is not answered.
    probe("1", opened.message_id().clone().unwrap().to_string()).await;
    probe("2", "other-0".to_owned()).await;
    let reply = caller.reply().await;
    assert_eq!(reply.status.as_deref(), Some("aborted"), "{reply:?}");
    assert_eq!(reply.correlation_id.as_deref(), Some("2"));
    assert_eq!((caller.waiting().await, fixture.subject.open()), (0, 1));
}
