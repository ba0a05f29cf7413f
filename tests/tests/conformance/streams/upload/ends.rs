//! The ends of uploads: early answers, errors of either side, limits, callers that leave, and servers that shut down.

use super::{Fixture, ImporterClient, LONG, Refused, SHORT, code};
use futures_util::stream::{self, StreamExt};
use lepus::Code;
use lepus_tests::{Env, conformance, eventually};
use serde::Serialize;

conformance!(
    an_early_answer_stops_the_sender,
    a_method_that_never_reads_ends,
    a_method_that_stops_reading_stops_the_sender,
    an_own_error_ends_an_upload,
    a_status_ends_an_upload,
    a_panic_ends_an_upload,
    a_call_that_is_dropped_cancels_its_method,
    items_that_are_left_behind_end,
    an_upload_has_a_total_time,
    an_item_that_cannot_be_encoded_ends_the_call,
    an_item_over_the_limit_of_the_caller_ends_the_call,
    an_item_over_the_limit_of_the_server_ends_the_call,
    a_value_over_the_limit_ends_the_call,
    a_shutdown_ends_uploads,
    a_method_may_answer_at_a_shutdown,
    a_dropped_server_ends_uploads,
);

async fn an_early_answer_stops_the_sender(env: Env) {
    let fixture = Fixture::start(&env).await;
    let source = &fixture.source;
    for rows in [10, 100_000] {
        let refused = fixture.importer.below(source.numbers(rows), 3).await;
        assert_eq!(refused.unwrap_err().service(), Some(&Refused { at: 3 }));
        fixture.is_at_rest().await;
    }
    assert!(source.polled() <= 10 + 64, "{}", source.polled());
    // The stream has no item ready.
    let refused = fixture.importer.below(source.endless(4), 3).await;
    assert_eq!(refused.unwrap_err().service(), Some(&Refused { at: 3 }));
    fixture.is_at_rest().await;
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
}

async fn a_method_that_never_reads_ends(env: Env) {
    let fixture = Fixture::start(&env).await;
    for rows in [0, 1, 1000] {
        let call = fixture.importer.ignores(fixture.source.endless(rows));
        assert_eq!(call.await.unwrap(), "ignores");
    }
    fixture.is_at_rest().await;
}

async fn a_method_that_stops_reading_stops_the_sender(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.leaves(fixture.source.endless(1000));
    let call = tokio::spawn(call.into_future());
    eventually("one is read", || async { fixture.subject.read() == 1 }).await;
    // While the method goes on.
    fixture.source.is_dropped().await;
    assert_eq!(fixture.subject.running(), 1);
    fixture.subject.permits.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap(), 0);
    fixture.is_at_rest().await;
}

async fn an_own_error_ends_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    let source = &fixture.source;
    for limit in [0, 1, 31, 32, 99] {
        let refused = fixture.importer.alias(source.numbers(100), limit).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.service(), Some(&Refused { at: limit }));
    }
    let sum = fixture.importer.alias(source.numbers(100), 100).await;
    assert_eq!(sum.unwrap(), 99 * 50);
    fixture.is_at_rest().await;
}

async fn a_status_ends_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    let busy = fixture.importer.busy(fixture.source.numbers(1000)).await;
    assert_eq!(code(busy.err()), Code::OutOfRange);
    fixture.is_at_rest().await;
}

async fn a_panic_ends_an_upload(env: Env) {
    let fixture = Fixture::start(&env).await;
    let panicked = fixture.importer.panics(fixture.source.endless(3)).await;
    assert_eq!(code(panicked.err()), Code::Internal);
    assert_eq!(fixture.serving.stats().panics, 1);
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn a_call_that_is_dropped_cancels_its_method(env: Env) {
    let fixture = Fixture::start(&env).await;
    let source = fixture.source.clone();
    let call = fixture
        .importer
        .import("lines".into(), source.endless(5), None);
    let call = tokio::spawn(call.into_future());
    eventually("five are read", || async { fixture.subject.read() == 5 }).await;
    call.abort();
    let error = fixture.subject.error().await;
    assert_eq!(error.code(), Some(Code::Cancelled), "{error}");
    assert!(format!("{error:?}").contains("after 5 items"), "{error:?}");
    fixture.is_at_rest().await;
    // One that does not read is dropped all the same.
    let call = tokio::spawn(fixture.importer.hangs(source.numbers(50)).into_future());
    eventually("it hangs", || async { fixture.subject.running() == 1 }).await;
    call.abort();
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn items_that_are_left_behind_end(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.left_behind(fixture.source.endless(3));
    call.await.unwrap();
    let error = fixture.subject.error().await;
    assert_eq!(error.code(), Some(Code::Cancelled), "{error}");
    fixture.is_at_rest().await;
}

async fn an_upload_has_a_total_time(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.hangs(fixture.source.endless(1));
    let error = call.total(SHORT).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    fixture.is_at_rest().await;
    // The time for the opening is no time for the rest.
    let call = fixture.importer.gated(fixture.source.numbers(3));
    let limit = SHORT * 5;
    let call = tokio::spawn(call.timeout(limit).into_future());
    eventually("it has begun", || async { fixture.subject.running() == 1 }).await;
    // A later call with the same limit has ended, so that of the opening is over.
    let error = fixture.importer.waits().timeout(limit).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    fixture.subject.permits.add_permits(10);
    assert_eq!(call.await.unwrap().unwrap(), 3);
    fixture.is_at_rest().await;
}

/// A number that cannot be encoded from 3 on.
struct Odd(u64);

impl Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 < 3 {
            serializer.serialize_u64(self.0)
        } else {
            Err(serde::ser::Error::custom("no such number"))
        }
    }
}

/// A client with items of other types.
fn odd(
    fixture: &Fixture,
    items: impl futures_util::Stream<Item = Odd> + Send + 'static,
) -> lepus::rpc::UploadCall<u64> {
    let client = lepus::rpc::Client::new(&fixture.calling, ImporterClient::DESCRIPTOR);
    let methods = ImporterClient::DESCRIPTOR.methods();
    let gated = methods.iter().find(|method| method.name() == "gated");
    client.upload(gated.unwrap(), &(), items)
}

async fn an_item_that_cannot_be_encoded_ends_the_call(env: Env) {
    let fixture = Fixture::start(&env).await;
    fixture.subject.permits.add_permits(100);
    let items = fixture.source.numbers(10).map(Odd);
    let error = odd(&fixture, items).await.unwrap_err();
    assert!(error.is_encode(), "{error}");
    let report = format!("{error:?}");
    assert!(
        report.contains("after 3 items") && report.contains("no such number"),
        "{report}"
    );
    fixture.is_at_rest().await;
    let error = fixture.subject.error().await;
    assert_eq!(error.code(), Some(Code::Cancelled), "{error}");
}

async fn an_item_over_the_limit_of_the_caller_ends_the_call(env: Env) {
    let calling = env.builder().max_message_size(10_000).open().await.unwrap();
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let rows = stream::iter([9_000, 9_000, 10_001, 5]).map(|size| vec![7; size]);
    let error = fixture.importer.sizes(rows).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn an_item_over_the_limit_of_the_server_ends_the_call(env: Env) {
    let serving = env.builder().max_message_size(10_000).open().await.unwrap();
    let fixture = Fixture::over(&env, serving, env.connect().await).await;
    let rows = stream::iter([9_000, 10_001, 5]).map(|size| vec![7; size]);
    let error = fixture.importer.sizes(rows).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10000"), "{text}");
    assert_eq!(code(Some(error)), Code::ResourceExhausted);
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn a_value_over_the_limit_ends_the_call(env: Env) {
    let calling = env.builder().max_message_size(100).open().await.unwrap();
    let fixture = Fixture::over(&env, env.connect().await, calling).await;
    let rows = stream::iter(vec![Vec::<u8>::new(); 200]);
    let error = fixture.importer.sizes(rows).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    fixture.is_at_rest().await;
}

async fn a_shutdown_ends_uploads(env: Env) {
    let fixture = Fixture::start(&env).await;
    let source = &fixture.source;
    let reading = fixture
        .importer
        .import("lines".into(), source.endless(2), None);
    let reading = tokio::spawn(reading.into_future());
    let hanging = tokio::spawn(fixture.importer.hangs(source.numbers(99)).into_future());
    eventually("both have begun", || async {
        fixture.subject.running() == 2 && fixture.subject.read() == 2
    })
    .await;
    fixture.server.stop().await.unwrap();
    for call in [reading.await.unwrap().err(), hanging.await.unwrap().err()] {
        assert_eq!(code(call), Code::Unavailable);
    }
    let error = fixture.subject.error().await;
    assert_eq!(error.code(), Some(Code::Unavailable), "{error}");
    fixture.source.is_dropped().await;
    eventually("the methods are dropped", || async {
        fixture.subject.running() == 0
    })
    .await;
}

async fn a_method_may_answer_at_a_shutdown(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.until_drained(fixture.source.endless(3));
    let call = tokio::spawn(call.into_future());
    eventually("three are read", || async { fixture.subject.read() == 3 }).await;
    fixture.server.stop().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 3);
    fixture.source.is_dropped().await;
}

async fn a_dropped_server_ends_uploads(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.left_behind(fixture.source.numbers(0));
    call.await.unwrap();
    let call = tokio::spawn(
        fixture
            .importer
            .hangs(fixture.source.endless(3))
            .into_future(),
    );
    eventually("it has begun", || async { fixture.subject.running() == 1 }).await;
    drop(fixture.server);
    let error = tokio::time::timeout(LONG, call).await.unwrap().unwrap();
    assert_eq!(code(error.err()), Code::Unavailable);
    fixture.source.is_dropped().await;
    eventually("no stream", || async {
        fixture.serving.stats().open_streams == 0
    })
    .await;
}
