//! Calls by name, without a contract: encoded arguments, and a reply that is not decoded.

use super::SHORT;
use futures_util::future::join_all;
use lepus::middleware::{Next, from_fn};
use lepus::rpc::{DynamicClient, Request};
use lepus::{Code, Codec};
use lepus_tests::probe::RpcFixture;
use lepus_tests::{Env, conformance};

conformance!(
    a_call_by_name_gets_the_encoded_reply,
    a_call_by_name_fails_as_any_other,
    a_call_by_name_has_options_and_layers,
);

fn client(rpc: &RpcFixture, codec: Codec) -> DynamicClient {
    let builder = DynamicClient::builder(&rpc.calling, "probe", "probe").expect("names");
    builder.codec(codec).build()
}

async fn a_call_by_name_gets_the_encoded_reply(env: Env) {
    let rpc = RpcFixture::start(&env).await;
    let json = client(&rpc, Codec::Json);
    let reply = json
        .call("echo", r#"{"text":"hare"}"#)
        .await
        .expect("a reply");
    assert_eq!(
        (reply.codec(), &**reply.body()),
        (Codec::Json, &b"\"hare\""[..])
    );
    assert!(!reply.is_own_error());
    let own = json.call("divide", "[1,0]").await.expect("a reply");
    assert!(own.is_own_error());
    assert_eq!(&**own.body(), br#"{"dividend":1}"#);
    let msgpack = client(&rpc, Codec::MsgPack);
    let arguments = Codec::MsgPack.encode(&[84, 2]).expect("arguments");
    let reply = msgpack.call("divide", arguments).await.expect("a reply");
    assert_eq!(
        (reply.codec(), reply.decode::<i64>().ok()),
        (Codec::MsgPack, Some(42))
    );
    rpc.is_well(&env).await;
}

async fn a_call_by_name_fails_as_any_other(env: Env) {
    let rpc = RpcFixture::start(&env).await;
    let json = client(&rpc, Codec::Json);
    let error = json.call("echo", "{text:").await.expect_err("no JSON");
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    let error = json.call("hammer", "{}").await.expect_err("no method");
    assert_eq!(error.code(), Some(Code::Unimplemented), "{error}");
    let error = json.call("", "{}").await.expect_err("no name");
    assert!(error.is_invalid(), "{error}");
    let error = json.call("echo", "[]").header("rpc-status", "ok").await;
    assert!(error.expect_err("a reserved header").is_invalid());
    let error = json
        .call("hold", "[7]")
        .timeout(SHORT)
        .await
        .expect_err("held");
    assert!(error.is_timeout(), "{error}");
    rpc.subject.gate.open_for_good();
    let builder = DynamicClient::builder(&rpc.calling, "nobody", "nobody").expect("names");
    let error = builder
        .build()
        .call("echo", "[]")
        .await
        .expect_err("nobody");
    assert!(error.is_unroutable(), "{error}");
    assert!(error.to_string().starts_with("nobody.echo"), "{error}");
    for (service, queue) in [("", "probe"), ("probe", ""), ("probe", "a\nb")] {
        let built = DynamicClient::builder(&rpc.calling, service, queue);
        assert!(built.expect_err("no name").is_invalid());
    }
    rpc.is_well(&env).await;
}

async fn a_call_by_name_has_options_and_layers(env: Env) {
    let rpc = RpcFixture::start(&env).await;
    let tenant = from_fn(async |request: Request, next: Next| {
        next.run(request.with_header("tenant", "meadow")).await
    });
    let builder = DynamicClient::builder(&rpc.calling, "probe", "probe").expect("names");
    let layered = builder.codec(Codec::Json).layer(tenant).build();
    let call = layered
        .call("facts", "{}")
        .header("zone", "eu")
        .idempotent();
    let facts: lepus_tests::probe::Facts = call.await.expect("a reply").decode().expect("facts");
    let headers: Vec<&str> = facts.headers.keys().map(String::as_str).collect();
    assert_eq!(headers, ["tenant", "zone"]);
    assert!(facts.message_id.is_some(), "{facts:?}");
    // A method without a reply ends with the confirm.
    rpc.subject.gate.open_for_good();
    let note = client(&rpc, Codec::Json).call("note", "[7]").oneway();
    assert!(note.await.expect("a confirm").body().starts_with(b"null"));
    lepus_tests::eventually("the note ran", || async { rpc.subject.ids() == [7] }).await;
    // Calls by name share messages too.
    let builder = DynamicClient::builder(&rpc.calling, "probe", "probe").expect("names");
    let coalescing = builder.codec(Codec::Json).coalesce(16).build();
    let calls = (0..50).map(|n| coalescing.call("echo", format!("[\"{n}\"]")).into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(*reply.expect("a reply").body(), format!("\"{n}\""));
    }
    rpc.is_well(&env).await;
}
