//! Stacks of the crate tower around services and clients, and layers of Lepus inside of them.

use super::SHORT;
use futures_util::future::{BoxFuture, join_all};
use lepus::middleware::{FromTower, Next, Service as _, ToTower, TowerService, from_fn};
use lepus::rpc::{Reply, ReplyOutcome, Request};
use lepus::{Code, Status};
use lepus_tests::probe::{ProbeClient, ProbeServer, RpcFixture, Subject, serve_layered};
use lepus_tests::{Env, conformance};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service, ServiceBuilder};

conformance!(
    a_stack_of_tower_around_a_service,
    a_full_stack_of_tower_sheds_its_load,
    a_layer_of_ones_own_in_tower,
    a_layer_of_lepus_in_a_stack_of_tower,
    a_stack_of_tower_around_a_client,
);

async fn a_stack_of_tower_around_a_service(env: Env) {
    let stack = ServiceBuilder::new().concurrency_limit(4).timeout(SHORT);
    let (_server, _subject, calling) =
        serve_layered(&env, |probe| probe.layer(FromTower::new(stack))).await;
    let probe = ProbeClient::new(&calling);
    let error = probe.hold(1).await.expect_err("stopped");
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    let calls = (0..32_u32).map(|number| probe.echo(number.to_string()).into_future());
    for (number, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.expect("a reply"), number.to_string());
    }
}

async fn a_full_stack_of_tower_sheds_its_load(env: Env) {
    let stack = ServiceBuilder::new().load_shed().concurrency_limit(1);
    let (_server, subject, calling) =
        serve_layered(&env, |probe| probe.layer(FromTower::new(stack))).await;
    let probe = ProbeClient::new(&calling);
    let held = probe.hold(1).send().await.expect("sent");
    subject.gate.entered(1).await;
    let error = probe.echo("x".into()).await.expect_err("full");
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    subject.gate.open(1);
    assert_eq!(held.await.expect("a reply"), 1);
    assert_eq!(probe.echo("x".into()).await.expect("a reply"), "x");
}

/// A tower layer that counts replies, and refuses requests with errors of its own.
#[derive(Clone)]
struct Counting(Arc<AtomicUsize>);

#[derive(Clone)]
struct Counted<S>(S, Arc<AtomicUsize>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted(inner, Arc::clone(&self.0))
    }
}

impl<S> Service<Request> for Counted<S>
where
    S: Service<Request, Response = Reply, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Reply, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let refusal = request.context().header("refuse").cloned();
        let refusal = refusal.as_ref().and_then(|refusal| refusal.as_str());
        let error: BoxError = match refusal {
            Some("status") => Status::new(Code::NotFound, "not here").into(),
            Some(other) => other.into(),
            None => {
                let (reply, count) = (self.0.call(request), Arc::clone(&self.1));
                return Box::pin(async move {
                    let reply = reply.await.map_err(Into::into)?;
                    if matches!(reply.outcome(), ReplyOutcome::Value) {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(reply)
                });
            }
        };
        Box::pin(async move { Err(error) })
    }
}

async fn a_layer_of_ones_own_in_tower(env: Env) {
    let count = Arc::new(AtomicUsize::new(0));
    let stack = FromTower::new(Counting(Arc::clone(&count)));
    let (_server, _subject, calling) = serve_layered(&env, |probe| probe.layer(stack)).await;
    let probe = ProbeClient::builder(&calling).coalesce(16).build();
    probe.echo("first".into()).await.expect("a reply");
    for reply in join_all((0..20).map(|_| probe.echo("x".into()).into_future())).await {
        reply.expect("a reply");
    }
    probe.divide(1, 0).await.expect_err("an error");
    // Each call of a shared message is counted, and no error.
    assert_eq!(count.load(Ordering::SeqCst), 21);
    for (refusal, code) in [("status", Code::NotFound), ("broken", Code::Internal)] {
        let call = probe.echo("x".into()).header("refuse", refusal);
        let error = call.await.expect_err("refused");
        assert_eq!(error.code(), Some(code), "{error}");
    }
}

async fn a_layer_of_lepus_in_a_stack_of_tower(env: Env) {
    let tenant = from_fn(async |request: Request, next: Next| {
        let name = next.descriptor().name();
        next.run(request.with_header("x-service", name)).await
    });
    let make = |probe: ProbeServer<Subject>| {
        let stack = ServiceBuilder::new()
            .concurrency_limit(4)
            .layer(ToTower::new(tenant, probe.descriptor()))
            .timeout(SHORT);
        // The options of the service are kept: 8 requests at once.
        let layered = probe.layer(FromTower::new(stack));
        assert_eq!(
            layered.options(),
            lepus::rpc::ServiceOptions::new().concurrency(8)
        );
        layered
    };
    let (_server, _subject, calling) = serve_layered(&env, make).await;
    let probe = ProbeClient::new(&calling);
    let facts = probe.facts().await.expect("a reply");
    assert_eq!(facts.headers["x-service"], "probe");
    let error = probe.panic("boom".into()).await.expect_err("a panic");
    assert_eq!(error.code(), Some(Code::Internal));
}

async fn a_stack_of_tower_around_a_client(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let stack = ServiceBuilder::new()
        .timeout(SHORT)
        .map_request(|request: Request| request.with_header("x-tenant", "meadow"));
    let builder = ProbeClient::builder(&fixture.calling);
    let probe = builder.layer(FromTower::new(stack)).build();
    let facts = probe.facts().await.expect("a reply");
    assert_eq!(facts.headers["x-tenant"], "meadow");
    let error = probe.hold(1).await.expect_err("stopped");
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    static_assertions_of_a_tower_service(TowerService::new(ProbeServer::new(Subject::default())));
}

/// It can be used wherever tower wants a service that is shared.
fn static_assertions_of_a_tower_service<S>(_: S)
where
    S: Service<Request, Response = Reply, Future: Send> + Clone + Send + Sync + 'static,
{
}
