//! Streams of a method that is known by name only.

use super::Fixture;
use lepus::rpc::{DynamicClient, DynamicStreaming};
use lepus::{Code, Codec, Error};
use lepus_tests::{Env, conformance};

conformance!(
    the_items_come_as_they_are_encoded,
    the_end_is_an_item_or_an_error,
    dropping_it_cancels_the_stream,
);

fn client(fixture: &Fixture, codec: Codec) -> DynamicClient {
    let builder = DynamicClient::builder(&fixture.calling, "ticker", "ticker").expect("names");
    builder.codec(codec).build()
}

/// Reads a stream to its end: the bodies of its items, and the last one if it is an error.
async fn read(mut items: DynamicStreaming) -> (Vec<Vec<u8>>, Option<Result<Vec<u8>, Error>>) {
    let mut read = Vec::new();
    while let Some(item) = items.next().await {
        let last = match item {
            Ok(item) if !item.is_own_error() => {
                read.push(item.body().to_vec());
                continue;
            }
            Ok(own) => Ok(own.body().to_vec()),
            Err(error) => Err(error),
        };
        assert!(items.next().await.is_none(), "an error is the last item");
        return (read, Some(last));
    }
    (read, None)
}

async fn the_items_come_as_they_are_encoded(env: Env) {
    let fixture = Fixture::start(&env).await;
    let json = client(&fixture, Codec::Json);
    let items = json.stream("count", r#"{"to":100}"#).window(3).await;
    let (items, last) = read(items.expect("a stream")).await;
    assert!(last.is_none());
    let expected = (0..100).map(|number| number.to_string().into_bytes());
    assert!(items.into_iter().eq(expected));
    let msgpack = client(&fixture, Codec::MsgPack);
    let items = msgpack.stream("count", &b"\x91\x02"[..]).await;
    let (items, last) = read(items.expect("a stream")).await;
    assert!(last.is_none());
    assert_eq!(items, [b"\x00", b"\x01"]);
    fixture.is_at_rest().await;
}

async fn the_end_is_an_item_or_an_error(env: Env) {
    let fixture = Fixture::start(&env).await;
    let json = client(&fixture, Codec::Json);
    for after in [0, 2] {
        let arguments = format!("[{after}]");
        let items = json.stream("gone", arguments.clone()).await;
        let (items, last) = read(items.expect("a stream")).await;
        let own = last.expect("an error").expect("the method's own");
        assert_eq!(items.len(), after);
        assert_eq!(own, format!("{{\"after\":{after}}}").into_bytes());
        let items = json.stream("busy", arguments).await;
        let (items, last) = read(items.expect("a stream")).await;
        let error = last.expect("an error").expect_err("a status");
        assert_eq!((items.len(), error.code()), (after, Some(Code::OutOfRange)));
    }
    // A method that returns no stream, one that does not exist, and what is no name.
    let echo = json.stream("echo", r#"["hare"]"#).await;
    assert!(echo.expect_err("a value").is_decode());
    let hammer = json.stream("hammer", "[]").await;
    assert_eq!(
        hammer.expect_err("no method").code(),
        Some(Code::Unimplemented)
    );
    let nameless = json.stream("", "[]").await;
    assert!(nameless.expect_err("no name").is_invalid());
    fixture.is_at_rest().await;
}

async fn dropping_it_cancels_the_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    let json = client(&fixture, Codec::Json);
    let mut items = json.stream("forever", "{}").await.expect("a stream");
    let first = items.next().await.expect("an item").expect("a number");
    assert_eq!(first.decode::<u64>().ok(), Some(0));
    drop(items);
    fixture.is_at_rest().await;
    fixture.is_well().await;
}
