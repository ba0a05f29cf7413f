//! Uploads that are opened, and those that are refused.

use super::{Fixture, ImporterClient, ImporterServer, LONG, SHORT, Source, Subject, code, serve};
use futures_util::stream;
use lepus::middleware::from_fn;
use lepus::{Code, Server};
use lepus_tests::peer::Caller;
use lepus_tests::probe::is_settled;
use lepus_tests::raw::{Raw, delivery};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

conformance!(
    a_server_has_so_many_uploads,
    an_upload_that_nobody_takes_times_out,
    an_upload_is_acknowledged_when_it_begins,
    a_redelivered_upload_is_aborted,
    an_upload_that_is_dropped_is_cancelled,
    a_caller_that_sends_no_stream_is_told,
    contracts_of_other_versions_are_told_apart,
    layers_see_an_upload_as_one_call,
    the_description_tells_which_methods_take_a_stream,
);

async fn a_server_has_so_many_uploads(env: Env) {
    env.name("importer");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let (subject, source) = (Arc::new(Subject::default()), Source::default());
    let server = serve(&serving, &subject).streams(1).start().await.unwrap();
    let importer = ImporterClient::new(&calling);
    let first = tokio::spawn(importer.hangs(source.endless(1)).into_future());
    eventually("it has begun", || async { subject.running() == 1 }).await;
    let refused = importer.ignores(source.endless(1)).await;
    assert_eq!(code(refused.err()), Code::ResourceExhausted);
    assert_eq!(importer.echo("well".into()).await.unwrap(), "well");
    first.abort();
    for _ in 0..3 {
        eventually("the permit is back", || async {
            importer.ignores(source.endless(1)).await.is_ok()
        })
        .await;
    }
    source.is_dropped().await;
    server.stop().await.unwrap();
}

async fn an_upload_that_nobody_takes_times_out(env: Env) {
    let fixture = Fixture::start(&env).await;
    fixture.server.stop().await.unwrap();
    let call = fixture.importer.ignores(fixture.source.numbers(3));
    let error = call.timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(fixture.source.polled(), 0, "it is not polled before");
    fixture.source.is_dropped().await;
}

async fn an_upload_is_acknowledged_when_it_begins(env: Env) {
    let fixture = Fixture::start(&env).await;
    let call = fixture.importer.hangs(fixture.source.endless(1));
    let call = tokio::spawn(call.into_future());
    eventually("it has begun", || async { fixture.subject.running() == 1 }).await;
    is_settled(&env, &env.name("importer")).await;
    eventually("nothing unsettled", || async {
        fixture.serving.stats().unsettled == 0
    })
    .await;
    call.abort();
    fixture.is_at_rest().await;
}

async fn a_redelivered_upload_is_aborted(env: Env) {
    env.name("importer");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let (subject, source) = (Arc::new(Subject::default()), Source::default());
    let importer = ImporterClient::new(&calling);
    // A server without Lepus takes the request, and gives it back.
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("importer");
    raw.declare(&queue).await;
    let call = importer.ignores(source.numbers(3)).timeout(LONG);
    let call = tokio::spawn(call.into_future());
    let mut consumer = raw.consume(&queue, 1).await;
    let _taken = delivery(&mut consumer).await;
    let server = serve(&serving, &subject).start().await.unwrap();
    raw.close().await;
    assert_eq!(code(call.await.unwrap().err()), Code::Aborted);
    assert_eq!((subject.running(), source.polled()), (0, 0));
    is_settled(&env, &queue).await;
    server.stop().await.unwrap();
}

async fn an_upload_that_is_dropped_is_cancelled(env: Env) {
    let fixture = Fixture::start(&env).await;
    for _ in 0..20 {
        let call = fixture.importer.hangs(fixture.source.endless(100));
        // Whether or not it is open already.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), call).await;
    }
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn a_caller_that_sends_no_stream_is_told(env: Env) {
    let fixture = Fixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let queue = env.name("importer");
    let reply = caller.ask(&queue, caller.json("ignores"), b"{}").await;
    let (status, message) = reply.failure();
    assert_eq!(status, "failed_precondition", "{message}");
    assert!(message.contains("takes a stream"), "{message}");
    is_settled(&env, &queue).await;
    fixture.is_at_rest().await;
}

/// Contracts in which methods take a stream or do not, other than in that of the server.
#[lepus::service(name = "importer")]
trait OtherImporter {
    fn hangs(&self) -> impl stream::Stream<Item = u64>;
    async fn ignores(&self) -> String;
    async fn echo(&self, text: String, rows: lepus::Incoming<u64>) -> String;
}

async fn contracts_of_other_versions_are_told_apart(env: Env) {
    let fixture = Fixture::start(&env).await;
    let other = OtherImporterClient::new(&fixture.calling);
    let error = other.hangs().await.unwrap_err();
    assert!(error.is_decode(), "{error}");
    let error = other.ignores().await.err();
    assert_eq!(code(error), Code::FailedPrecondition);
    let rows = fixture.source.numbers(3);
    let error = other.echo("text".into(), rows).await.unwrap_err();
    assert!(error.is_decode(), "{error}");
    fixture.is_at_rest().await;
    fixture.is_well().await;
}

async fn layers_see_an_upload_as_one_call(env: Env) {
    env.name("importer");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let (subject, source) = (Arc::new(Subject::default()), Source::default());
    let counted = || {
        let seen = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let counts = Arc::clone(&seen);
        let layer = from_fn(
            move |request: lepus::rpc::Request, next: lepus::middleware::Next| {
                let counts = Arc::clone(&counts);
                async move {
                    counts.0.fetch_add(1, Ordering::SeqCst);
                    let reply = next.run(request.with_header("tenant", "hare")).await;
                    counts.1.fetch_add(1, Ordering::SeqCst);
                    reply
                }
            },
        );
        (layer, seen)
    };
    let ((inner, served), (outer, called)) = (counted(), counted());
    let server = ImporterServer::from_arc(Arc::clone(&subject)).layer(inner);
    let server = Server::new(&serving).serve(server).start().await.unwrap();
    let importer: ImporterClient = ImporterClient::builder(&calling).layer(outer).build();
    let call = tokio::spawn(importer.gated(source.numbers(50)).into_future());
    // A client's layers see the opening, and a server's the whole call.
    eventually("it is open", || async {
        called.1.load(Ordering::SeqCst) == 1 && subject.running() == 1
    })
    .await;
    assert_eq!(served.1.load(Ordering::SeqCst), 0);
    subject.permits.add_permits(100);
    assert_eq!(call.await.unwrap().unwrap(), 50);
    for seen in [&served, &called] {
        let counts = (seen.0.load(Ordering::SeqCst), seen.1.load(Ordering::SeqCst));
        assert_eq!(counts, (1, 1));
    }
    source.is_dropped().await;
    server.stop().await.unwrap();
}

async fn the_description_tells_which_methods_take_a_stream(env: Env) {
    let fixture = Fixture::start(&env).await;
    let discovery = lepus::Discovery::new(&fixture.calling);
    // Its control queue is declared after its start.
    let info = eventually("the server answers", || async {
        discovery.info("importer").expect(1).await.unwrap().pop()
    })
    .await;
    let endpoint = |name: &str| {
        let endpoint = info.endpoints.iter().find(|endpoint| endpoint.name == name);
        endpoint.unwrap().data.clone()
    };
    assert_eq!(endpoint("import").stream.as_deref(), Some("upload"));
    assert_eq!(endpoint("import").arguments, ["table", "first"]);
    assert_eq!(endpoint("echo").stream, None);
}
