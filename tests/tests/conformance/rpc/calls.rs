//! Calls: what goes right, and who waits for whom.

use super::shapes::{Shaper, ShapesClient, ShapesServer, call_every_shape};
use super::{LONG, SHORT};
use futures_util::future::join_all;
use lepus::{Codec, Connection, Outcome, Server};
use lepus_tests::probe::{
    DivideByZero, ProbeClient, RpcFixture, Subject, is_settled, serve_concurrently,
};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

conformance!(
    a_value_comes_back,
    a_methods_own_error_comes_back,
    arguments_and_replies_of_every_shape,
    either_codec_is_understood_by_the_same_server,
    a_oneway_call_ends_when_the_broker_has_it,
    a_call_is_sent_now_and_awaited_later,
    a_call_that_is_never_awaited_is_never_made,
    thousands_of_calls_share_one_reply_queue,
    a_dropped_call_frees_its_slot,
    a_limit_on_calls_in_flight_waits_within_the_deadline,
    a_client_and_a_server_share_a_connection,
    a_handler_calls_its_own_service,
    any_timeout_can_be_asked_for,
);

async fn a_value_comes_back(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    assert_eq!(fixture.probe.echo("hello".into()).await.unwrap(), "hello");
    let clone = fixture.probe.clone();
    assert_eq!(clone.echo("again".into()).await.unwrap(), "again");
    fixture.is_well(&env).await;
    assert_eq!(fixture.calling.stats().pending_calls, 0);
}

async fn a_methods_own_error_comes_back(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    assert_eq!(fixture.probe.divide(7, 2).await.unwrap(), 3);
    let error = fixture.probe.divide(7, 0).await.unwrap_err();
    assert_eq!(error.service(), Some(&DivideByZero { dividend: 7 }));
    assert_eq!(error.to_string(), "7 divided by zero");
    assert!(error.rpc().is_none() && error.may_have_executed());
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 0);
}

async fn arguments_and_replies_of_every_shape(env: Env) {
    let connection = env.connect().await;
    let queue = env.name("shapes");
    let server = Server::new(&connection).serve(ShapesServer::new(Shaper));
    let server = server.start().await.unwrap();
    for codec in [Codec::MsgPack, Codec::Json] {
        let shapes = ShapesClient::builder(&connection).codec(codec).build();
        call_every_shape(&shapes).await;
    }
    server.stop().await.unwrap();
    is_settled(&env, &queue).await;
}

async fn either_codec_is_understood_by_the_same_server(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let json = ProbeClient::builder(&fixture.calling)
        .codec(Codec::Json)
        .build();
    assert_eq!(json.echo("as JSON".into()).await.unwrap(), "as JSON");
    assert_eq!(
        json.divide(1, 0).await.unwrap_err().service(),
        Some(&DivideByZero { dividend: 1 })
    );
    fixture.is_well(&env).await;
}

async fn a_oneway_call_ends_when_the_broker_has_it(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    // Its handler has not ended when the call has.
    fixture.probe.note(1).await.unwrap();
    fixture.subject.gate.entered(1).await;
    fixture.probe.note(2).await.unwrap();
    fixture.subject.gate.open(2);
    fixture.subject.gate.entered(2).await;
    assert_eq!(fixture.subject.ids(), [1, 2]);
    fixture.is_well(&env).await;
    assert_eq!(
        fixture.calling.stats().dropped_replies,
        0,
        "nobody answers it"
    );
    assert_eq!(fixture.serving.stats().malformed, 0);
}

async fn a_call_is_sent_now_and_awaited_later(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let first = fixture.probe.hold(1).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let second = fixture.probe.hold(2).send().await.unwrap();
    fixture.subject.gate.open_for_good();
    // In whatever order.
    assert_eq!(second.await.unwrap(), 2);
    assert_eq!(first.await.unwrap(), 1);
    fixture.is_well(&env).await;
}

async fn a_call_that_is_never_awaited_is_never_made(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    fixture.subject.gate.open_for_good();
    drop(fixture.probe.hold(1));
    let future = std::future::IntoFuture::into_future(fixture.probe.hold(2));
    drop(future);
    assert_eq!(fixture.probe.hold(3).await.unwrap(), 3);
    assert_eq!(fixture.subject.ids(), [3]);
    fixture.is_well(&env).await;
}

async fn thousands_of_calls_share_one_reply_queue(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve_concurrently(&serving, &subject, 100)
        .start()
        .await
        .unwrap();
    let clients = [ProbeClient::new(&calling), ProbeClient::new(&calling)];
    let calls = (0..3000).map(|n| {
        let call = clients[n % 2].echo(n.to_string()).timeout(LONG);
        async move { (n, call.await) }
    });
    for (n, reply) in join_all(calls).await {
        assert_eq!(reply.unwrap(), n.to_string(), "nobody gets another's reply");
    }
    let stats = calling.stats();
    assert_eq!((stats.pending_calls, stats.dropped_replies), (0, 0));
    // The last reply may be here a moment before its handler has ended.
    eventually("no handler", || async { serving.stats().running == 0 }).await;
    if let Some(broker) = env.embedded() {
        let queues = broker.queues();
        let replies = queues
            .iter()
            .filter(|queue| queue.name.contains("lepus.reply."));
        assert_eq!(replies.count(), 1);
        let clients = broker.connections();
        assert_eq!(
            clients.len(),
            2,
            "one for a client, one for a server: {clients:?}"
        );
    }
    server.stop().await.unwrap();
    is_settled(&env, &env.name("probe")).await;
}

async fn a_dropped_call_frees_its_slot(env: Env) {
    // A server that is not told of dropped calls runs and answers them.
    let serving = env.builder().control(false).open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    let pending = fixture.probe.hold(1).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    assert_eq!(fixture.calling.stats().pending_calls, 1);
    drop(pending);
    assert_eq!(fixture.calling.stats().pending_calls, 0);

    let probe = fixture.probe.clone();
    let task = tokio::spawn(async move { probe.hold(2).await });
    eventually("the second call", || async {
        fixture.calling.stats().pending_calls == 1
    })
    .await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(fixture.calling.stats().pending_calls, 0);

    // Both replies come too late for anybody.
    fixture.subject.gate.open_for_good();
    eventually("two late replies", || async {
        fixture.calling.stats().dropped_replies == 2
    })
    .await;
    fixture.is_well(&env).await;
}

async fn a_limit_on_calls_in_flight_waits_within_the_deadline(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let probe = ProbeClient::builder(&fixture.calling)
        .max_in_flight(1)
        .build();
    let first = probe.hold(1).send().await.unwrap();
    fixture.subject.gate.entered(1).await;

    let error = probe.clone().hold(2).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));

    let waiting = tokio::spawn({
        let probe = probe.clone();
        async move { probe.hold(3).await }
    });
    // Another client is not held up.
    let other = fixture.probe.hold(4).send().await.unwrap();
    fixture.subject.gate.open_for_good();
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(waiting.await.unwrap().unwrap(), 3);
    assert_eq!(other.await.unwrap(), 4);
    // A dropped call gives its place back too.
    drop(probe.hold(5).send().await.unwrap());
    assert_eq!(probe.hold(6).await.unwrap(), 6);
    assert!(!fixture.subject.ids().contains(&2));
    fixture.is_well(&env).await;
}

async fn a_client_and_a_server_share_a_connection(env: Env) {
    let connection = env.connect().await;
    let fixture = RpcFixture::over(&env, connection.clone(), connection.clone()).await;
    assert_eq!(
        fixture.probe.echo("to myself".into()).await.unwrap(),
        "to myself"
    );
    fixture.is_well(&env).await;
    fixture.server.stop().await.unwrap();
    connection.close().await;
}

#[lepus::service]
trait Ladder {
    async fn climb(&self, rungs: u32) -> Result<u32, String>;
}

struct Climber {
    connection: Connection,
}

impl Ladder for Climber {
    async fn climb(&self, rungs: u32) -> Result<u32, String> {
        match rungs {
            0 => Ok(0),
            rungs => {
                let next = LadderClient::new(&self.connection).climb(rungs - 1).await;
                next.map(|height| height + 1)
                    .map_err(|error| error.to_string())
            }
        }
    }
}

async fn a_handler_calls_its_own_service(env: Env) {
    let connection = env.connect().await;
    env.name("ladder");
    let climber = Climber {
        connection: connection.clone(),
    };
    let server = Server::new(&connection).serve(LadderServer::new(climber).concurrency(6));
    let _server = server.start().await.unwrap();
    let height = LadderClient::new(&connection).climb(5).await;
    assert_eq!(height.unwrap(), 5);
}

async fn any_timeout_can_be_asked_for(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    for limit in [
        Duration::MAX,
        Duration::from_secs(u64::from(u32::MAX)),
        LONG,
    ] {
        let echo = fixture.probe.echo("patience".into()).timeout(limit).await;
        assert_eq!(echo.unwrap(), "patience");
        fixture.subject.gate.open(1);
        fixture.probe.note(1).timeout(limit).await.unwrap();
    }
    let error = fixture
        .probe
        .echo("none".into())
        .timeout(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let error = fixture
        .probe
        .note(2)
        .timeout(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    fixture.subject.gate.entered(3).await;
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1, 1, 1]);
}
