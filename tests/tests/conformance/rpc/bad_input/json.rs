//! Values that JSON has no notation for.

use super::{ZoomClient, zoom};
use lepus::{Code, Codec, Topic, WorkQueue};
use lepus_tests::{Env, conformance};
use std::error::Error as _;

conformance!(
    a_number_that_json_has_not_is_not_sent,
    a_reply_that_json_cannot_write_is_told_to_its_caller,
);

async fn a_number_that_json_has_not_is_not_sent(env: Env) {
    let connection = env.connect().await;
    let calls = ZoomClient::new(&connection).half(f64::NAN).await;
    let call = calls.unwrap_err().rpc().cloned().unwrap();
    let queue = WorkQueue::<f64>::new("lengths").codec(Codec::Json);
    let producer = queue.producer(&connection);
    let push = producer.push(&f64::INFINITY).await.unwrap_err();
    let topic = Topic::<f64>::new("lengths").codec(Codec::Json);
    let publisher = topic.publisher(&connection);
    let publish = publisher.publish("a", &f64::NAN).await.unwrap_err();
    for (error, number) in [(call, "NaN"), (push, "inf"), (publish, "NaN")] {
        assert!(error.is_encode(), "{error}");
        assert!(!error.may_have_executed(), "{error}");
        let reason = error.source().map(ToString::to_string);
        let expected = format!("application/json: {number} is not a number that JSON can write");
        assert_eq!(reason, Some(expected));
    }
    let all = producer.push_all(&[1.0, f64::NAN, 2.0]).await;
    assert!(
        all[0].is_ok() && all[1].is_err() && all[2].is_ok(),
        "{all:?}"
    );
    env.name("lengths");
    env.name("lengths.dead");
}

async fn a_reply_that_json_cannot_write_is_told_to_its_caller(env: Env) {
    let serving = env.connect().await;
    let _server = zoom(&env, &serving).await;
    let error = ZoomClient::new(&serving).half(1.0).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal), "{error}");
    let text = "the reply of `half` cannot be encoded: application/json: inf is not a number";
    assert!(error.to_string().contains(text), "{error}");
}
