//! Calls: what goes right, and who waits for whom.

use futures_util::future::join_all;
use lepus::{Client, Code, Codec, Connection, Name, Outcome, Queue, QueueKind, Server};
use lepus_tests::peer::Caller;
use lepus_tests::probe::{DivideByZero, ProbeClient, ProbeServer, Rig, Subject, is_settled, serve};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, Gate, conformance, eventually};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(200);
/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

conformance!(calls:
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

conformance!(queues:
    more_urgent_requests_overtake,
    services_share_a_connection,
    a_method_has_a_queue_of_its_own,
    a_passive_server_declares_nothing,
    a_queue_is_declared_as_it_is_asked_for,
    no_services_is_a_mistake,
);

conformance!(workers:
    so_many_handlers_run_at_once,
    a_busy_server_gets_no_further_request,
    a_request_at_most_once_is_acknowledged_before_it_runs,
    a_drain_finishes_what_is_in_hand,
    what_outlasts_the_grace_goes_back,
    a_dropped_server_gives_back_what_it_has,
    a_shutdown_before_the_start_ends_it,
);

async fn a_value_comes_back(env: Env) {
    let rig = Rig::start(&env).await;
    assert_eq!(rig.probe.echo("hello".into()).await.unwrap(), "hello");
    let clone = rig.probe.clone();
    assert_eq!(clone.echo("again".into()).await.unwrap(), "again");
    rig.is_well(&env).await;
    assert_eq!(rig.calling.stats().pending_calls, 0);
}

async fn a_methods_own_error_comes_back(env: Env) {
    let rig = Rig::start(&env).await;
    assert_eq!(rig.probe.divide(7, 2).await.unwrap(), 3);
    let error = rig.probe.divide(7, 0).await.unwrap_err();
    assert_eq!(error.service(), Some(&DivideByZero { dividend: 7 }));
    assert_eq!(error.to_string(), "7 divided by zero");
    assert!(error.rpc().is_none() && error.may_have_executed());
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 0);
}

#[lepus::service]
trait Shapes {
    async fn nothing(&self);
    async fn several(&self, a: u8, b: Option<String>, c: Vec<(i64, f64)>) -> (u8, Option<String>);
    async fn nested(&self, of: Vec<Option<Vec<u8>>>) -> Result<Vec<Option<Vec<u8>>>, ()>;
    async fn unit_or_text(&self, fail: bool) -> Result<(), String>;
    #[rpc(name = "type")]
    async fn renamed(&self, r#type: String) -> String;
    #[rpc(params = "bare")]
    async fn bare(&self, number: i64) -> i64;
}

struct Shaper;

impl Shapes for Shaper {
    async fn nothing(&self) {}

    async fn several(&self, a: u8, b: Option<String>, c: Vec<(i64, f64)>) -> (u8, Option<String>) {
        assert_eq!(c, [(-1, 0.5), (i64::MAX, f64::MIN)]);
        (a, b)
    }

    async fn nested(&self, of: Vec<Option<Vec<u8>>>) -> Result<Vec<Option<Vec<u8>>>, ()> {
        if of.is_empty() { Err(()) } else { Ok(of) }
    }

    async fn unit_or_text(&self, fail: bool) -> Result<(), String> {
        if fail { Err("no".into()) } else { Ok(()) }
    }

    async fn renamed(&self, r#type: String) -> String {
        r#type
    }

    async fn bare(&self, number: i64) -> i64 {
        number
    }
}

async fn call_every_shape(shapes: &ShapesClient) {
    shapes.nothing().await.unwrap();
    let pairs = vec![(-1, 0.5), (i64::MAX, f64::MIN)];
    let several = shapes.several(255, Some("häse".into()), pairs.clone());
    assert_eq!(several.await.unwrap(), (255, Some("häse".into())));
    assert_eq!(shapes.several(0, None, pairs).await.unwrap(), (0, None));
    let nested = vec![None, Some(vec![]), Some(vec![0, 255])];
    assert_eq!(shapes.nested(nested.clone()).await.unwrap(), nested);
    assert_eq!(
        shapes.nested(vec![]).await.unwrap_err().service(),
        Some(&())
    );
    shapes.unit_or_text(false).await.unwrap();
    let error = shapes.unit_or_text(true).await.unwrap_err();
    assert_eq!(error.service().map(String::as_str), Some("no"));
    assert_eq!(shapes.renamed("r#".into()).await.unwrap(), "r#");
    assert_eq!(shapes.bare(i64::MIN).await.unwrap(), i64::MIN);
}

async fn arguments_and_replies_of_every_shape(env: Env) {
    let connection = env.connect().await;
    let queue = env.name("shapes");
    let server = Server::new(&connection).serve(ShapesServer::new(Shaper));
    let server = server.start().await.unwrap();
    for codec in [Codec::MsgPack, Codec::Json] {
        let client = Client::new(&connection, ShapesClient::DESCRIPTOR).codec(codec);
        call_every_shape(&ShapesClient::with_client(client)).await;
    }
    server.stop().await.unwrap();
    is_settled(&env, &queue).await;
}

async fn either_codec_is_understood_by_the_same_server(env: Env) {
    let rig = Rig::start(&env).await;
    let json = Client::new(&rig.calling, ProbeClient::DESCRIPTOR).codec(Codec::Json);
    let json = ProbeClient::with_client(json);
    assert_eq!(json.echo("as JSON".into()).await.unwrap(), "as JSON");
    assert_eq!(
        json.divide(1, 0).await.unwrap_err().service(),
        Some(&DivideByZero { dividend: 1 })
    );
    rig.is_well(&env).await;
}

async fn a_oneway_call_ends_when_the_broker_has_it(env: Env) {
    let rig = Rig::start(&env).await;
    // Its handler has not ended when the call has.
    rig.probe.note(1).await.unwrap();
    rig.subject.gate.entered(1).await;
    rig.probe.note(2).await.unwrap();
    rig.subject.gate.open(2);
    rig.subject.gate.entered(2).await;
    assert_eq!(rig.subject.ids(), [1, 2]);
    rig.is_well(&env).await;
    assert_eq!(rig.calling.stats().dropped_replies, 0, "nobody answers it");
    assert_eq!(rig.serving.stats().malformed, 0);
}

async fn a_call_is_sent_now_and_awaited_later(env: Env) {
    let rig = Rig::start(&env).await;
    let first = rig.probe.hold(1).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let second = rig.probe.hold(2).send().await.unwrap();
    rig.subject.gate.open_for_good();
    // In whatever order.
    assert_eq!(second.await.unwrap(), 2);
    assert_eq!(first.await.unwrap(), 1);
    rig.is_well(&env).await;
}

async fn a_call_that_is_never_awaited_is_never_made(env: Env) {
    let rig = Rig::start(&env).await;
    rig.subject.gate.open_for_good();
    drop(rig.probe.hold(1));
    let future = std::future::IntoFuture::into_future(rig.probe.hold(2));
    drop(future);
    assert_eq!(rig.probe.hold(3).await.unwrap(), 3);
    assert_eq!(rig.subject.ids(), [3]);
    rig.is_well(&env).await;
}

async fn thousands_of_calls_share_one_reply_queue(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve(&serving, &subject)
        .concurrency(100)
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
        let exclusive = queues.iter().filter(|queue| queue.exclusive_to.is_some());
        assert_eq!(exclusive.count(), 1);
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
    let rig = Rig::start(&env).await;
    let pending = rig.probe.hold(1).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    assert_eq!(rig.calling.stats().pending_calls, 1);
    drop(pending);
    assert_eq!(rig.calling.stats().pending_calls, 0);

    let probe = rig.probe.clone();
    let task = tokio::spawn(async move { probe.hold(2).await });
    eventually("the second call", || async {
        rig.calling.stats().pending_calls == 1
    })
    .await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(rig.calling.stats().pending_calls, 0);

    // Both replies come too late for anybody.
    rig.subject.gate.open_for_good();
    eventually("two late replies", || async {
        rig.calling.stats().dropped_replies == 2
    })
    .await;
    rig.is_well(&env).await;
}

async fn a_limit_on_calls_in_flight_waits_within_the_deadline(env: Env) {
    let rig = Rig::start(&env).await;
    let client = Client::new(&rig.calling, ProbeClient::DESCRIPTOR).max_in_flight(1);
    let probe = ProbeClient::with_client(client);
    let first = probe.hold(1).send().await.unwrap();
    rig.subject.gate.entered(1).await;

    let error = probe.clone().hold(2).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    assert_eq!(
        error.rpc().and_then(|error| error.outcome()),
        Some(Outcome::NotSent)
    );

    let waiting = tokio::spawn({
        let probe = probe.clone();
        async move { probe.hold(3).await }
    });
    // Another client is not held up.
    let other = rig.probe.hold(4).send().await.unwrap();
    rig.subject.gate.open_for_good();
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(waiting.await.unwrap().unwrap(), 3);
    assert_eq!(other.await.unwrap(), 4);
    // A dropped call gives its place back too.
    drop(probe.hold(5).send().await.unwrap());
    assert_eq!(probe.hold(6).await.unwrap(), 6);
    assert!(!rig.subject.ids().contains(&2));
    rig.is_well(&env).await;
}

async fn a_client_and_a_server_share_a_connection(env: Env) {
    let connection = env.connect().await;
    let rig = Rig::over(&env, connection.clone(), connection.clone()).await;
    assert_eq!(
        rig.probe.echo("to myself".into()).await.unwrap(),
        "to myself"
    );
    rig.is_well(&env).await;
    rig.server.stop().await.unwrap();
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
    let server = Server::new(&connection)
        .serve(LadderServer::new(climber))
        .concurrency(6);
    let _server = server.start().await.unwrap();
    let height = LadderClient::new(&connection).climb(5).await;
    assert_eq!(height.unwrap(), 5);
}

async fn any_timeout_can_be_asked_for(env: Env) {
    let rig = Rig::start(&env).await;
    for limit in [
        Duration::MAX,
        Duration::from_secs(u64::from(u32::MAX)),
        LONG,
    ] {
        let echo = rig.probe.echo("patience".into()).timeout(limit).await;
        assert_eq!(echo.unwrap(), "patience");
        rig.subject.gate.open(1);
        rig.probe.note(1).timeout(limit).await.unwrap();
    }
    let error = rig
        .probe
        .echo("none".into())
        .timeout(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let error = rig.probe.note(2).timeout(Duration::ZERO).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    rig.subject.gate.entered(3).await;
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [1, 1, 1]);
}

async fn more_urgent_requests_overtake(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let queue = Queue::new(Name::parse("probe").unwrap()).max_priority(5);
    let server = serve(&serving, &subject)
        .queue(queue)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);

    let mut calls = vec![probe.hold(0).send().await.unwrap()];
    subject.gate.entered(1).await;
    for (id, priority) in [(1, 1), (2, 5), (3, 3)] {
        calls.push(probe.hold(id).priority(priority).send().await.unwrap());
    }
    calls.push(probe.hold(4).send().await.unwrap());
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 4).await;
    subject.gate.open_for_good();
    for (id, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap(), id as u32);
    }
    assert_eq!(subject.ids(), [0, 2, 3, 1, 4]);
    server.stop().await.unwrap();
}

#[lepus::service]
trait Clock {
    async fn now(&self) -> u64;
}

struct Noon;

impl Clock for Noon {
    async fn now(&self) -> u64 {
        12
    }
}

async fn services_share_a_connection(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let queues = [env.name("probe"), env.name("clock")];
    let server = serve(&serving, &subject)
        .concurrency(2)
        .serve(ClockServer::new(Noon))
        .concurrency(7)
        .start()
        .await
        .unwrap();
    let (probe, clock) = (ProbeClient::new(&calling), ClockClient::new(&calling));
    // One that is full does not hold the other up.
    let held = [probe.hold(1), probe.hold(2)].map(lepus::Call::send);
    let held = join_all(held).await;
    subject.gate.entered(2).await;
    assert_eq!(clock.now().await.unwrap(), 12);

    if let Some(broker) = env.embedded() {
        assert_eq!(broker.connections().len(), 2);
        let consumers = queues.each_ref().map(|queue| {
            let consumers = broker.consumers();
            let mine = consumers
                .into_iter()
                .find(|consumer| consumer.queue == *queue);
            mine.expect("a consumer")
        });
        assert_ne!(
            consumers[0].channel, consumers[1].channel,
            "each its own channel"
        );
        assert_eq!(
            consumers.each_ref().map(|consumer| consumer.prefetch),
            [2, 7]
        );
    }
    subject.gate.open_for_good();
    for reply in held {
        reply.unwrap().await.unwrap();
    }
    server.stop().await.unwrap();
    for queue in &queues {
        is_settled(&env, queue).await;
    }
}

#[lepus::service]
trait Studio {
    async fn sketch(&self) -> String;
    #[rpc(queue = "studio-render", params = "bare")]
    async fn render(&self, scene: String) -> String;
}

struct Artist(Gate);

impl Studio for Artist {
    async fn sketch(&self) -> String {
        self.0.pass().await;
        "sketch".into()
    }

    async fn render(&self, scene: String) -> String {
        format!("{scene} rendered")
    }
}

async fn a_method_has_a_queue_of_its_own(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let gate = Gate::default();
    let [main, own] = [env.name("studio"), env.name("studio-render")];
    let server = Server::new(&serving).serve(StudioServer::new(Artist(gate.clone())));
    let server = server.start().await.unwrap();
    let studio = StudioClient::new(&calling);
    let sketch = studio.sketch().send().await.unwrap();
    gate.entered(1).await;
    // The service's queue is busy; the method's own is not.
    assert_eq!(studio.render("dawn".into()).await.unwrap(), "dawn rendered");
    // A request there that names no method is for this one.
    let caller = Caller::open(&env).await;
    let json = caller
        .addressed("7")
        .with_content_type("application/json".into());
    let reply = caller.ask(&own, json.clone(), b"\"dusk\"").await;
    assert_eq!(reply.body, b"\"dusk rendered\"");
    gate.open_for_good();
    assert_eq!(sketch.await.unwrap(), "sketch");
    // On the service's queue nobody is meant by that.
    let reply = caller.ask(&main, json, b"\"dusk\"").await;
    assert_eq!(reply.failure().0, "unimplemented");
    server.stop().await.unwrap();
    is_settled(&env, &main).await;
    is_settled(&env, &own).await;
}

async fn a_passive_server_declares_nothing(env: Env) {
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let error = serve(&serving, &subject)
        .passive()
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.amqp_code(), Some(404));
    assert!(error.to_string().contains(&queue), "{error}");
    let raw = Raw::open(&env.uri).await;
    assert!(!raw.exists(&queue).await);

    // With whatever arguments it has.
    let limit = [("x-max-length", lapin::types::AMQPValue::LongInt(9))];
    raw.declare_with(&queue, lepus_tests::raw::durable(), &limit)
        .await
        .unwrap();
    let _server = serve(&serving, &subject).passive().start().await.unwrap();
    let probe = ProbeClient::new(&env.connect().await);
    assert_eq!(probe.echo("found".into()).await.unwrap(), "found");
}

#[lepus::service(durable = false)]
trait Fleeting {
    async fn now(&self);
}

#[lepus::service(quorum)]
trait Steady {
    async fn now(&self);
}

struct Idle;

impl Fleeting for Idle {
    async fn now(&self) {}
}

impl Steady for Idle {
    async fn now(&self) {}
}

async fn a_queue_is_declared_as_it_is_asked_for(env: Env) {
    let serving = env.connect().await;
    let _server = Server::new(&serving)
        .serve(FleetingServer::new(Idle))
        .serve(SteadyServer::new(Idle))
        .serve(ClockServer::new(Noon))
        .queue(
            Queue::new(Name::parse("tower").unwrap())
                .kind(QueueKind::Classic)
                .expires(Duration::from_secs(60)),
        )
        .start()
        .await
        .unwrap();
    FleetingClient::new(&serving).now().await.unwrap();
    SteadyClient::new(&serving).now().await.unwrap();

    // Only what is equivalent may be declared again.
    use lapin::types::AMQPValue;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let transient = lapin::options::QueueDeclareOptions::default();
    let durable = lepus_tests::raw::durable();
    for (queue, options, arguments) in [
        ("fleeting", transient, vec![]),
        ("steady", durable, vec![("x-queue-type", text("quorum"))]),
        (
            "tower",
            durable,
            vec![("x-expires", AMQPValue::LongInt(60_000))],
        ),
    ] {
        let raw = Raw::open(&env.uri).await;
        raw.declare_with(&env.name(queue), options, &arguments)
            .await
            .unwrap();
    }
    assert!(!Raw::open(&env.uri).await.exists(&env.name("clock")).await);
    // The client still asks where the contract says.
    let error = ClockClient::new(&serving).now().await.unwrap_err();
    assert!(error.is_unroutable(), "{error}");
}

async fn no_services_is_a_mistake(env: Env) {
    let connection = env.connect().await;
    let error = Server::new(&connection).start().await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
}

async fn so_many_handlers_run_at_once(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let _server = serve(&serving, &subject)
        .concurrency(3)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let calls = join_all((0..5).map(|id| probe.hold(id).send())).await;
    subject.gate.entered(3).await;
    // The broker keeps the others: that is the prefetch.
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 2).await;
    assert_eq!((subject.gate.count(), serving.stats().running), (3, 3));
    subject.gate.open(1);
    subject.gate.entered(4).await;
    subject.gate.open(1);
    subject.gate.entered(5).await;
    eventually("three at once", || async { serving.stats().running == 3 }).await;
    subject.gate.open_for_good();
    for call in calls {
        call.unwrap().await.unwrap();
    }
    eventually("nobody at work", || async { serving.stats().running == 0 }).await;
}

async fn a_busy_server_gets_no_further_request(env: Env) {
    let calling = env.connect().await;
    let connections = [env.connect().await, env.connect().await];
    let subjects = [Arc::new(Subject::default()), Arc::new(Subject::default())];
    let queue = env.name("probe");
    let mut servers = Vec::new();
    for (connection, subject) in connections.iter().zip(&subjects) {
        servers.push(serve(connection, subject).start().await.unwrap());
    }
    let probe = ProbeClient::new(&calling);
    let long = probe.hold(0).send().await.unwrap();
    eventually("one at work", || async {
        subjects[0].gate.count() + subjects[1].gate.count() == 1
    })
    .await;
    let [busy, idle] = if subjects[0].gate.count() == 1 {
        [&subjects[0], &subjects[1]]
    } else {
        [&subjects[1], &subjects[0]]
    };
    // All the others go to the one that is free, though it would be the busy one's turn.
    idle.gate.open_for_good();
    for id in 1..=6 {
        assert_eq!(probe.hold(id).await.unwrap(), id);
    }
    assert_eq!(busy.ids(), [0]);
    assert_eq!(idle.ids(), [1, 2, 3, 4, 5, 6]);
    busy.gate.open_for_good();
    assert_eq!(long.await.unwrap(), 0);
    is_settled(&env, &queue).await;
}

async fn a_request_at_most_once_is_acknowledged_before_it_runs(env: Env) {
    let rig = Rig::start(&env).await;
    let lost = rig.probe.hold_once(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    is_settled(&env, &rig.queue).await;
    // It holds its place nevertheless.
    let next = rig.probe.hold_once(2).timeout(LONG).send().await.unwrap();
    rig.subject.gate.open(1);
    assert_eq!(lost.await.unwrap(), 1);
    rig.subject.gate.entered(2).await;

    // A worker that goes away now has lost it, not doubled it.
    drop(rig.server);
    rig.subject.gate.left(1).await;
    let server = serve(&rig.serving, &rig.subject).start().await.unwrap();
    assert_eq!(rig.probe.echo("next".into()).await.unwrap(), "next");
    assert_eq!(rig.subject.ids(), [1, 2]);
    drop(next);
    server.stop().await.unwrap();
}

async fn a_drain_finishes_what_is_in_hand(env: Env) {
    let rig = Rig::start(&env).await;
    let in_hand = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let queued = rig.probe.hold(2).timeout(LONG).send().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&rig.queue, 1).await;

    let draining = tokio::spawn(rig.server.stop());
    eventually("no consumer", || async {
        raw.count(&rig.queue).await.consumers == 0
    })
    .await;
    assert!(!draining.is_finished(), "it waits for its handler");
    rig.subject.gate.open(1);
    assert_eq!(in_hand.await.unwrap(), 1);
    draining.await.unwrap().unwrap();
    raw.until_messages(&rig.queue, 1).await;
    assert_eq!(rig.subject.ids(), [1]);

    let _next = serve(&rig.serving, &rig.subject).start().await.unwrap();
    rig.subject.gate.open(1);
    assert_eq!(queued.await.unwrap(), 2);
    assert!(
        !rig.subject.runs()[1].facts.redelivered,
        "nobody had it before"
    );
    is_settled(&env, &rig.queue).await;
}

async fn what_outlasts_the_grace_goes_back(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve(&serving, &subject)
        .grace(SHORT)
        .start()
        .await
        .unwrap();
    let call = ProbeClient::new(&calling)
        .hold(1)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    subject.gate.entered(1).await;
    let began = Instant::now();
    server.stop().await.unwrap();
    assert!(began.elapsed() >= SHORT);
    assert_eq!(subject.gate.dropped(), 1);
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 1).await;

    let _next = serve(&serving, &subject).start().await.unwrap();
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    let redelivered = subject
        .runs()
        .iter()
        .map(|run| run.facts.redelivered)
        .collect::<Vec<_>>();
    assert_eq!(redelivered, [false, true]);
}

async fn a_dropped_server_gives_back_what_it_has(env: Env) {
    let rig = Rig::start(&env).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    drop(rig.server);
    rig.subject.gate.left(1).await;
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&rig.queue, 1).await;
    assert_eq!(raw.count(&rig.queue).await.consumers, 0);

    let _next = serve(&rig.serving, &rig.subject).start().await.unwrap();
    rig.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
}

async fn a_shutdown_before_the_start_ends_it(env: Env) {
    let connection = env.connect().await;
    let subject = Arc::new(Subject::default());
    serve(&connection, &subject).run(async {}).await.unwrap();
    // And one that comes later drains.
    let shutdown = Arc::new(tokio::sync::Notify::new());
    let run = serve(&connection, &subject).run({
        let shutdown = Arc::clone(&shutdown);
        async move { shutdown.notified().await }
    });
    let run = tokio::spawn(run);
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    eventually("a consumer", || async {
        raw.try_count(&queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    shutdown.notify_one();
    run.await.unwrap().unwrap();
    assert_eq!(raw.count(&queue).await.consumers, 0);
}

mod local {
    use super::*;

    fn probe() -> (Arc<Subject>, ProbeClient) {
        let subject = Arc::new(Subject::default());
        let client = Client::local(ProbeServer::from_arc(Arc::clone(&subject)));
        (subject, ProbeClient::with_client(client))
    }

    #[tokio::test]
    async fn the_same_stub_calls_an_implementation_in_process() {
        let probe = ProbeClient::local(Subject::default());
        assert_eq!(probe.echo("near".into()).await.unwrap(), "near");
        let error = probe.divide(3, 0).await.unwrap_err();
        assert_eq!(error.service(), Some(&DivideByZero { dividend: 3 }));
        call_every_shape(&ShapesClient::local(Shaper)).await;
        let facts = probe
            .facts()
            .header("tenant", "hare")
            .timeout(LONG)
            .await
            .unwrap();
        assert_eq!(
            (facts.service.as_str(), facts.method.as_str()),
            ("probe", "facts")
        );
        assert_eq!(facts.headers["tenant"], "hare");
        assert!(facts.millis_left.unwrap() <= 30_000);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let (_, probe) = probe();
        let error = probe.panic("boom".into()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Internal));
        let text = error.to_string();
        assert!(
            text.contains("`panic` panicked") && !text.contains("boom"),
            "{text}"
        );
        assert_eq!(probe.echo("alive".into()).await.unwrap(), "alive");
    }

    #[tokio::test]
    async fn a_handler_is_stopped_at_its_deadline_and_with_its_call() {
        let (subject, probe) = probe();
        let error = probe.hold(1).timeout(FAIR).await.unwrap_err();
        assert!(error.is_timeout() && error.may_have_executed(), "{error}");
        subject.gate.left(1).await;
        let call = probe.hold(2).send().await.unwrap();
        subject.gate.entered(2).await;
        drop(call);
        subject.gate.left(2).await;
    }

    #[tokio::test]
    async fn a_oneway_call_does_not_wait_for_its_handler() {
        let (subject, probe) = probe();
        probe.note(1).await.unwrap();
        subject.gate.entered(1).await;
        subject.gate.open(1);
        probe.note(2).timeout(FAIR).await.unwrap();
        // Stopped at its deadline all the same.
        subject.gate.left(1).await;
        assert_eq!(subject.ids(), [1, 2]);
    }
}
