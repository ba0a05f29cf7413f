//! Connections: how they are made and refused, watched, lost and built again, and closed.

mod addresses;
mod channels;
mod runtimes;

use lapin::types::AMQPValue;
use lepus::{ConnectionState, Context, Outcome, Server};
use lepus_tests::probe::{Probe, ProbeClient, ProbeServer, Rig, Subject, is_settled, serve};
use lepus_tests::proxy::{Cut, Mode, Proxy, Way};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance, eventually};
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

const SOON: Duration = Duration::from_millis(10);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
const A_SECOND: Duration = Duration::from_secs(1);

conformance!(opening:
    bad_credentials,
    a_virtual_host_that_is_not_there,
    nobody_listens,
    a_broker_that_hangs_up,
    a_broker_that_is_silent,
    what_is_no_uri,
    the_next_address_is_tried,
    a_broker_that_comes_later,
    namespaces_part_what_shares_a_broker,
);

conformance!(losing:
    the_state_is_watched,
    calls_in_flight_fail_at_once_by_fin,
    calls_in_flight_fail_at_once_by_rst,
    an_idempotent_call_is_sent_again,
    a_call_waits_for_the_connection,
    a_call_that_cannot_wait_so_long_was_not_sent,
    a_server_resumes_and_the_call_is_answered_once,
    a_reply_that_was_lost_with_its_server_comes_again,
    replies_that_stall_time_out,
    both_ends_are_cut_again_and_again,
    channels_and_deliveries_are_counted,
);

conformance!(queues:
    a_deleted_queue_is_declared_and_consumed_again,
    a_queue_deleted_meanwhile_is_declared_again,
    a_queue_deleted_as_a_server_starts_is_declared_again,
    a_deleted_reply_queue_is_replaced,
    a_mismatch_names_queue_argument_and_values,
    a_queue_of_another_connection,
    a_connection_without_channels_left,
);

conformance!(closing:
    pending_calls_end,
    servers_end,
    the_last_holder_closes_it,
    a_server_holds_its_connection,
);

/// `amqp://user:password@host:port/vhost` with other credentials or another virtual host.
fn with(uri: &str, credentials: &str, vhost: Option<&str>) -> String {
    let uri: lapin::uri::AMQPUri = uri.parse().unwrap();
    let (host, port) = (uri.authority.host, uri.authority.port);
    let vhost = vhost.map(|vhost| format!("/{vhost}")).unwrap_or_default();
    format!("amqp://{credentials}@{host}:{port}{vhost}")
}

/// The error, its causes and their `Debug`.
fn everything(error: &lepus::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

async fn bad_credentials(env: Env) {
    let uri = with(&env.uri, "s3cret-user:s3cret-word", None);
    let error = env.builder_at(&uri).open().await.unwrap_err();
    assert!(
        error.is_bad_credentials() && error.is_connect() && !error.is_timeout(),
        "{error}"
    );
    assert!(
        error.to_string().contains("refuses this user or password"),
        "{error}"
    );
    assert!(
        !everything(&error).contains("s3cret-word"),
        "{}",
        everything(&error)
    );
}

async fn a_virtual_host_that_is_not_there(env: Env) {
    let uri = with(&env.uri, "guest:guest", Some("no-such-host"));
    let error = env.builder_at(&uri).open().await.unwrap_err();
    assert!(error.is_bad_virtual_host() && error.is_connect(), "{error}");
    let text = everything(&error);
    assert!(text.contains("530") && text.contains("vhost"), "{text}");
    // Its name may be a password that slipped there.
    assert!(!text.contains("no-such-host"), "{text}");
}

async fn nobody_listens(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    proxy.set(Mode::Refuse).await;
    let error = env.builder_at(proxy.uri()).open().await.unwrap_err();
    assert!(
        error.is_connect() && !error.is_timeout() && !error.is_bad_credentials(),
        "{error}"
    );
    assert!(
        everything(&error).contains("refused"),
        "{}",
        everything(&error)
    );
}

async fn a_broker_that_hangs_up(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    proxy.set(Mode::AcceptThenClose).await;
    let error = env.builder_at(proxy.uri()).open().await.unwrap_err();
    assert!(
        error.is_connect() && !error.is_timeout() && !error.is_bad_credentials(),
        "{error}"
    );
}

async fn a_broker_that_is_silent(env: Env) {
    let mut broker = SilentBroker::start().await;
    let began = Instant::now();
    let opening = env.builder_at(&broker.uri).connect_timeout(SHORT).open();
    let error = opening.await.unwrap_err();
    assert!(error.is_connect() && error.is_timeout(), "{error}");
    assert!(error.to_string().contains("within 200ms"), "{error}");
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    broker.greeted().await;
    broker.left().await;

    // An attempt that nobody waits for any more ends as well.
    let mut broker = SilentBroker::start().await;
    let opening = env.builder_at(&broker.uri).connect_timeout(LONG).open();
    let opening = tokio::spawn(opening);
    broker.greeted().await;
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    broker.left().await;
}

/// Accepts and says nothing.
struct SilentBroker {
    uri: String,
    listener: tokio::net::TcpListener,
    client: Option<tokio::net::TcpStream>,
}

impl SilentBroker {
    async fn start() -> SilentBroker {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("amqp://guest:guest@{}", listener.local_addr().unwrap());
        SilentBroker {
            uri,
            listener,
            client: None,
        }
    }

    /// A client has come and begun the handshake.
    async fn greeted(&mut self) {
        let (mut client, _) = self.listener.accept().await.unwrap();
        let mut header = [0; 8];
        client.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\x00\x00\x09\x01");
        self.client = Some(client);
    }

    /// It has hung up, however it does so.
    async fn left(mut self) {
        let mut client = self.client.take().unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }
}

async fn what_is_no_uri(env: Env) {
    for uri in [
        "",
        "localhost",
        "http://user:s3cret@localhost",
        "amqp://user:s3cret@localhost:port",
        "amqp://user:s3cret@localhost:99999",
        "amqp://user:s3cret@localhost/%2f/%2f?heartbeat=soon",
    ] {
        let error = env.builder_at(uri).open().await.unwrap_err();
        assert!(
            error.is_invalid() && !error.is_connect(),
            "{uri}: {error:?}"
        );
        assert!(
            !everything(&error).contains("s3cret"),
            "{uri}: {}",
            everything(&error)
        );
    }
    let long = "n".repeat(256);
    let builder = || lepus::Connection::builder(&env.uri);
    for wrong in [
        builder().heartbeat(Duration::ZERO),
        builder().heartbeat(Duration::from_secs(70_000)),
        builder().name(""),
        builder().name(&long),
        builder().namespace(""),
        builder().namespace("a\nb"),
        builder().namespace(&long[..129]),
    ] {
        let shown = format!("{wrong:?}");
        let error = wrong.open().await.expect_err(&shown);
        assert!(error.is_invalid(), "{shown}: {error}");
    }
    builder()
        .namespace(&long[..128])
        .name(&long[..255])
        .open()
        .await
        .unwrap();
}

async fn the_next_address_is_tried(env: Env) {
    let (first, second) = (Proxy::start(&env.uri).await, Proxy::start(&env.uri).await);
    first.set(Mode::Refuse).await;
    let uris = format!("{},{}", first.uri(), second.uri());
    let calling = env
        .builder_at(&uris)
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    assert_eq!((first.accepted(), second.accepted()), (0, 1));
    let rig = Rig::over(&env, env.connect().await, calling).await;
    assert_eq!(rig.probe.echo("second".into()).await.unwrap(), "second");
    // And when that one goes, the first again.
    first.up().await;
    second.down().await;
    let mut state = rig.calling.state();
    state
        .wait_for(|_| second.open() == 0 && first.open() == 1)
        .await
        .unwrap();
    assert_eq!(
        rig.probe.echo("first".into()).timeout(LONG).await.unwrap(),
        "first"
    );
    assert!(first.accepted() >= 1);

    // With none there the error is of the one that got furthest.
    first.down().await;
    let builder = env
        .builder_at(first.uri())
        .address(&with(&env.uri, "nobody:x", None));
    let error = builder.open().await.unwrap_err();
    assert!(error.is_bad_credentials(), "{error}");
}

async fn a_broker_that_comes_later(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    proxy.set(Mode::Refuse).await;
    let builder = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .retry_at_start();
    let connection = builder.open().await.unwrap();
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let server = tokio::spawn(serve(&connection, &subject).start());
    let probe = ProbeClient::new(&connection);
    let error = probe.echo("early".into()).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let mut state = connection.state();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    proxy.up().await;
    let _server = server.await.unwrap().unwrap();
    assert_eq!(
        probe.echo("late".into()).timeout(LONG).await.unwrap(),
        "late"
    );
    state.wait_for(ConnectionState::is_connected).await.unwrap();
}

async fn namespaces_part_what_shares_a_broker(env: Env) {
    let [one, two] = ["one", "two"].map(|name| env.name(name));
    let connect = async |namespace: &str| {
        let builder = lepus::Connection::builder(&env.uri).namespace(namespace);
        builder.open().await.unwrap()
    };
    let (first, second) = (connect(&one).await, connect(&two).await);
    env.name("one.probe");
    let subject = Arc::new(Subject::default());
    let _server = serve(&first, &subject).start().await.unwrap();
    assert_eq!(
        ProbeClient::new(&first).echo("mine".into()).await.unwrap(),
        "mine"
    );
    let error = ProbeClient::new(&second)
        .echo("whose?".into())
        .await
        .unwrap_err();
    assert!(error.is_unroutable(), "{error}");
    assert!(
        error.to_string().contains(&format!("queue `{two}.probe`")),
        "{error}"
    );
    let raw = Raw::open(&env.uri).await;
    assert_eq!(raw.count(&format!("{one}.probe")).await.consumers, 1);
    // By its whole name it can be reached without one.
    let error = connect("probe").await;
    drop(error);
}

async fn the_state_is_watched(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let connection = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let rig = Rig::over(&env, connection.clone(), connection.clone()).await;
    rig.is_well(&env).await;
    let mut state = connection.state();
    assert!(state.borrow().is_connected() && state.borrow().trouble().is_none());

    proxy.down().await;
    let is_down = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    let (since, error) = match state.wait_for(is_down).await.unwrap().clone() {
        ConnectionState::Reconnecting { since, error } => (since, error),
        other => panic!("{other:?}"),
    };
    assert!(error.is_disconnected(), "{error}");
    // Attempts that fail say why, and it is still the same trouble.
    let refused = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.is_connect());
    match state.wait_for(refused).await.unwrap().clone() {
        ConnectionState::Reconnecting { since: still, .. } => assert_eq!(still, since),
        other => panic!("{other:?}"),
    }
    assert!(state.borrow().trouble().is_some());

    proxy.up().await;
    state.wait_for(ConnectionState::is_connected).await.unwrap();
    rig.is_well(&env).await;
    connection.close().await;
    assert!(matches!(
        *state.borrow_and_update(),
        ConnectionState::Closed
    ));
}

async fn calls_in_flight_fail_at_once_by_fin(env: Env) {
    calls_in_flight_fail_at_once(env, Cut::Fin).await;
}

async fn calls_in_flight_fail_at_once_by_rst(env: Env) {
    calls_in_flight_fail_at_once(env, Cut::Rst).await;
}

async fn calls_in_flight_fail_at_once(env: Env, how: Cut) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env.builder_at(proxy.uri()).open().await.unwrap();
    let rig = Rig::over(&env, env.connect().await, calling).await;
    // One at work, one in the queue, and one whose service nobody serves.
    env.name("unserved");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&env.name("unserved")).await;
    let calls = [
        rig.probe.hold(1).timeout(LONG).send().await.unwrap(),
        rig.probe.hold_once(2).timeout(LONG).send().await.unwrap(),
    ];
    let unserved = UnservedClient::new(&rig.calling)
        .wait()
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    rig.subject.gate.entered(1).await;
    raw.until_messages(&rig.queue, 1).await;
    raw.until_messages(&env.name("unserved"), 1).await;
    assert_eq!(rig.calling.stats().pending_calls, 3);

    assert_eq!(proxy.cut(how), 1);
    let mut errors = Vec::new();
    for call in calls {
        errors.push(call.await.unwrap_err().rpc().unwrap().clone());
    }
    errors.push(unserved.await.unwrap_err().rpc().unwrap().clone());
    for error in errors {
        assert!(
            error.is_disconnected() && error.may_have_executed(),
            "{error}"
        );
        assert!(
            !error.is_closed() && !error.is_timeout() && !error.is_unroutable(),
            "{error}"
        );
        assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
        let text = error.to_string();
        assert!(
            text.contains("the connection to the broker was lost after"),
            "{text}"
        );
        assert!(text.ends_with("(sent, no reply)"), "{text}");
    }
    assert_eq!(rig.calling.stats().pending_calls, 0);

    // Nothing is to be done to call again.
    let again = tokio::spawn({
        let probe = rig.probe.clone();
        async move { probe.echo("again".into()).timeout(LONG).await }
    });
    rig.subject.gate.open_for_good();
    assert_eq!(again.await.unwrap().unwrap(), "again");
    assert_eq!(rig.subject.ids(), [1, 2], "the server did what it had");
    rig.is_well(&env).await;
}

#[lepus::service(client)]
trait Unserved {
    async fn wait(&self);
}

async fn an_idempotent_call_is_sent_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let _server = serve(&serving, &subject)
        .concurrency(10)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let call = probe.hold_idempotent(1).timeout(LONG).send().await.unwrap();
    let other = probe.hold(2).timeout(LONG).send().await.unwrap();
    subject.gate.entered(2).await;
    proxy.cut(Cut::Rst);
    assert!(other.await.unwrap_err().is_disconnected());
    // `send` has returned long ago: whoever waits sends it again.
    let call = tokio::spawn(call);
    subject.gate.entered(3).await;
    proxy.cut(Cut::Fin);
    subject.gate.entered(4).await;
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    let runs = subject.runs();
    let mine: Vec<_> = runs.iter().filter(|run| run.id == 1).collect();
    assert_eq!(mine.len(), 3);
    assert!(
        mine.iter()
            .all(|run| run.facts.message_id == mine[0].facts.message_id),
        "{mine:?}"
    );
    assert!(
        mine.windows(2)
            .all(|runs| runs[1].facts.millis_left <= runs[0].facts.millis_left)
    );

    // Within the deadline, and what came of the first sending is not known.
    let call = probe
        .hold_idempotent(3)
        .timeout(A_SECOND)
        .send()
        .await
        .unwrap();
    proxy.down().await;
    let error = call.await.err();
    if let Some(error) = error {
        assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    }
}

async fn a_call_waits_for_the_connection(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let rig = Rig::over(&env, env.connect().await, calling).await;
    rig.probe.echo("before".into()).await.unwrap();
    proxy.down().await;
    let mut state = rig.calling.state();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    rig.subject.gate.open_for_good();
    let (probe, other) = (rig.probe.clone(), rig.probe.clone());
    let waiting = tokio::spawn(async move { probe.hold(1).timeout(LONG).await });
    let oneway = tokio::spawn(async move { other.note(2).timeout(LONG).await });
    proxy.up().await;
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    oneway.await.unwrap().unwrap();
    rig.subject.gate.entered(2).await;
    rig.is_well(&env).await;
    assert_eq!(rig.subject.runs().len(), 2, "each once");
}

async fn a_call_that_cannot_wait_so_long_was_not_sent(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let rig = Rig::over(&env, env.connect().await, calling).await;
    proxy.down().await;
    let mut state = rig.calling.state();
    rig.probe.note(0).timeout(SOON).await.unwrap_err();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    for error in [
        rig.probe
            .hold(1)
            .timeout(SHORT)
            .await
            .unwrap_err()
            .rpc()
            .unwrap()
            .clone(),
        rig.probe
            .hold_idempotent(2)
            .timeout(SHORT)
            .await
            .unwrap_err()
            .rpc()
            .unwrap()
            .clone(),
        rig.probe
            .note(3)
            .timeout(SHORT)
            .await
            .unwrap_err()
            .rpc()
            .unwrap()
            .clone(),
    ] {
        assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
    }
    proxy.up().await;
    rig.probe.echo("back".into()).timeout(LONG).await.unwrap();
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [0; 0]);
}

async fn a_server_resumes_and_the_call_is_answered_once(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let serving = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    let first = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let queued = rig.probe.hold(2).timeout(LONG).send().await.unwrap();
    proxy.cut(Cut::Rst);
    // What can no longer be answered is dropped, and comes again.
    rig.subject.gate.left(1).await;
    rig.subject.gate.entered(2).await;
    rig.subject.gate.open_for_good();
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(queued.await.unwrap(), 2);
    let runs: Vec<_> = rig
        .subject
        .runs()
        .iter()
        .map(|run| (run.id, run.facts.redelivered))
        .collect();
    assert_eq!(runs, [(1, false), (1, true), (2, false)]);
    rig.is_well(&env).await;
    assert_eq!(rig.calling.stats().dropped_replies, 0);
    let raw = Raw::open(&env.uri).await;
    assert_eq!(
        raw.count(&rig.queue).await.consumers,
        1,
        "no more, no fewer"
    );
}

/// The reply is on its way, the acknowledgement is not: the request runs again, and the second
/// reply finds nobody.
async fn a_reply_that_was_lost_with_its_server_comes_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let serving = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    rig.is_well(&env).await;
    let call = rig
        .probe
        .hold(0x7eadbeef)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    rig.subject.gate.entered(1).await;
    // The reply's body passes, and not a byte after it.
    let trap = proxy.stall_after(Way::Up, b"\xce\x7e\xad\xbe\xef\xce");
    rig.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 0x7eadbeef);
    trap.sprung().await;
    proxy.cut(Cut::Rst);
    proxy.resume();
    rig.subject.gate.entered(2).await;
    eventually("the second reply", || async {
        rig.calling.stats().dropped_replies == 1
    })
    .await;
    rig.is_well(&env).await;
    let redelivered = rig
        .subject
        .runs()
        .iter()
        .map(|run| run.facts.redelivered)
        .collect::<Vec<_>>();
    assert_eq!(redelivered, [false, true]);
}

async fn replies_that_stall_time_out(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let calling = env.builder_at(proxy.uri()).open().await.unwrap();
    let rig = Rig::over(&env, env.connect().await, calling).await;
    rig.probe.echo("before".into()).await.unwrap();
    proxy.stall(Way::Down);
    let error = rig
        .probe
        .echo("lost".into())
        .timeout(SHORT)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::SentNoReply));
    proxy.resume();
    eventually("it comes late", || async {
        rig.calling.stats().dropped_replies == 1
    })
    .await;
    rig.is_well(&env).await;
}

async fn both_ends_are_cut_again_and_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = || env.builder_at(proxy.uri()).backoff(SOON, SHORT);
    let (serving, calling) = (
        builder().open().await.unwrap(),
        builder().open().await.unwrap(),
    );
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let _server = serve(&serving, &subject)
        .concurrency(10)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let (mut answered, mut lost) = (0, 0);
    for round in 0..10 {
        let calls = (0..20).map(|n| {
            let probe = probe.clone();
            tokio::spawn(async move {
                let text = format!("{round}-{n}");
                (probe.echo(text.clone()).timeout(LONG).await, text)
            })
        });
        let calls: Vec<_> = calls.collect();
        eventually("something in flight or done", || async {
            calling.stats().pending_calls > 0 || calls.iter().any(|call| call.is_finished())
        })
        .await;
        proxy.cut(if round % 2 == 0 { Cut::Rst } else { Cut::Fin });
        for call in calls {
            match call.await.unwrap() {
                (Ok(reply), text) => {
                    assert_eq!(reply, text);
                    answered += 1;
                }
                (Err(error), _) => {
                    assert!(error.is_disconnected(), "{error}");
                    lost += 1;
                }
            }
        }
    }
    assert_eq!(answered + lost, 200, "every call ends");
    assert_eq!(calling.stats().pending_calls, 0);
    // The first of them may still meet the connection that was cut last.
    eventually("calls as before", || async {
        probe.echo("last".into()).timeout(LONG).await
    })
    .await;
    is_settled(&env, &queue).await;
    let raw = Raw::open(&env.uri).await;
    eventually("one consumer, no orphans", || async {
        raw.count(&queue).await.consumers == 1
    })
    .await;
}

async fn channels_and_deliveries_are_counted(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = || env.builder_at(proxy.uri()).backoff(SOON, SHORT);
    let (serving, calling) = (
        builder().open().await.unwrap(),
        builder().open().await.unwrap(),
    );
    let channels = || (serving.stats().channels, calling.stats().channels);
    assert_eq!(channels(), (0, 0), "none before it is needed");
    let Rig {
        server,
        subject,
        probe,
        queue,
        ..
    } = Rig::over(&env, serving.clone(), calling.clone()).await;
    probe.echo("hi".into()).timeout(LONG).await.unwrap();
    // One consumes; one has the replies, and one the requests.
    let at_rest = || async {
        let now = (channels(), serving.stats().unsettled);
        if now == ((1, 2), 0) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    };
    eventually("at rest", at_rest).await;
    for (round, how) in [(1, Cut::Fin), (2, Cut::Rst)] {
        let call = probe.hold(1).timeout(LONG).send().await.unwrap();
        eventually("a delivery is in hand", || async {
            serving.stats().unsettled == 1
        })
        .await;
        proxy.cut(how);
        let error = call.await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
        // It comes again, to the next session.
        subject.gate.entered(2 * round).await;
        subject.gate.open(1);
        eventually("calls as before", || async {
            probe.echo("hi".into()).timeout(LONG).await
        })
        .await;
        eventually("nothing of the session before is held", at_rest).await;
    }
    is_settled(&env, &queue).await;
    server.stop().await.unwrap();
    calling.close().await;
    eventually("none is left", || async {
        if channels() == (0, 0) {
            Ok(())
        } else {
            Err(format!("{:?}", channels()))
        }
    })
    .await;
}

async fn a_deleted_queue_is_declared_and_consumed_again(env: Env) {
    let serving = env.builder().backoff(SOON, SHORT).open().await.unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    let in_hand = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let raw = Raw::open(&env.uri).await;
    raw.delete(&rig.queue).await;
    eventually("a consumer again", || async {
        raw.try_count(&rig.queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    // What was in hand is answered, and does not run again.
    rig.subject.gate.open_for_good();
    assert_eq!(in_hand.await.unwrap(), 1);
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [1]);
    assert!(rig.serving.state().borrow().is_connected());
}

async fn a_queue_deleted_meanwhile_is_declared_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let serving = env
        .builder_at(proxy.uri())
        .backoff(SOON, SHORT)
        .open()
        .await
        .unwrap();
    let other = Server::new(&serving).serve(OtherServer::new(Idle));
    env.name("other");
    let _other = other.start().await.unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    proxy.down().await;
    let raw = Raw::open(&env.uri).await;
    raw.delete(&rig.queue).await;
    proxy.up().await;
    eventually("a consumer again", || async {
        raw.try_count(&rig.queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    rig.is_well(&env).await;
    OtherClient::new(&rig.calling)
        .idle()
        .timeout(LONG)
        .await
        .unwrap();
}

async fn a_queue_deleted_as_a_server_starts_is_declared_again(env: Env) {
    let (proxy, raw) = (Proxy::start(&env.uri).await, Raw::open(&env.uri).await);
    let serving = env.builder_at(proxy.uri()).open().await.unwrap();
    let queue = env.name("other");
    // Right after basic.qos: the queue is declared, and what asks for its messages is held.
    let qos = b"\0\x3c\0\x0a\0\0\0\0\0\x01\0\xce";
    let trap = proxy.stall_after(Way::Up, qos);
    let server = Server::new(&serving).serve(OtherServer::new(Idle));
    let starting = tokio::spawn(server.start());
    trap.sprung().await;
    raw.delete(&queue).await;
    proxy.resume();
    let _running = starting.await.unwrap().expect("it starts");
    let other = OtherClient::new(&env.connect().await);
    other.idle().timeout(LONG).await.unwrap();
}

#[lepus::service]
trait Other {
    async fn idle(&self);
}

struct Idle;

impl Other for Idle {
    async fn idle(&self) {}
}

async fn a_deleted_reply_queue_is_replaced(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("nobody else may delete an exclusive queue of RabbitMQ's");
    };
    let rig = Rig::start(&env).await;
    let reply_queue = || {
        let queues = broker.queues();
        let mut mine = queues
            .into_iter()
            .filter(|queue| queue.exclusive_to.is_some());
        mine.next().map(|queue| queue.name)
    };
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    let other = rig
        .probe
        .hold_idempotent(2)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    rig.subject.gate.entered(1).await;
    let first = reply_queue().expect("a reply queue");
    assert!(broker.delete_queue("/", &first));
    let error = call.await.unwrap_err();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    let cause = error.source().expect("a cause").to_string();
    assert!(
        cause.contains("lost") || cause.contains("deleted"),
        "{cause}"
    );
    assert!(everything(error.rpc().unwrap()).contains("the reply queue was deleted"));
    rig.subject.gate.open_for_good();
    assert_eq!(other.await.unwrap(), 2);
    rig.is_well(&env).await;
    assert_ne!(reply_queue().expect("another"), first);
    assert!(rig.calling.state().borrow().is_connected());
    eventually("replies that came back", || async {
        rig.serving.stats().returned_replies >= 1
    })
    .await;
}

async fn a_mismatch_names_queue_argument_and_values(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    env.name("other");
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    // A server of the same connection goes on.
    let server = Server::new(&serving).serve(OtherServer::new(Idle));
    let _other = server.start().await.unwrap();
    let other = OtherClient::new(&serving);

    raw.declare_with(&queue, Default::default(), &[])
        .await
        .unwrap();
    let error = serve(&serving, &subject).start().await.unwrap_err();
    assert!(
        error.is_mismatch() && error.amqp_code() == Some(406),
        "{error:?}"
    );
    let text = format!("queue `{queue}` exists with `durable` = false, declared here with true");
    assert_eq!(error.to_string(), text);
    other.idle().await.unwrap();

    raw.delete(&queue).await;
    let limits = [("x-message-ttl", AMQPValue::LongInt(60_000))];
    raw.declare_with(&queue, durable(), &limits).await.unwrap();
    let error = serve(&serving, &subject).start().await.unwrap_err();
    let text =
        format!("queue `{queue}` exists with `x-message-ttl` = 60000, declared here with none");
    assert_eq!(error.to_string(), text);
    assert!(error.is_mismatch());

    // Nothing of a server is served when a part of it cannot be.
    let both = serve(&serving, &subject).serve(ThirdServer::new(Idle));
    env.name("third");
    assert!(both.start().await.unwrap_err().is_mismatch());
    assert!(!raw.exists(&env.name("third")).await);
    let error = Server::new(&serving)
        .serve(ThirdServer::new(Idle))
        .serve(ProbeServer::from_arc(subject));
    assert!(error.start().await.unwrap_err().is_mismatch());
    eventually("no consumer", || async {
        raw.count(&env.name("third")).await.consumers == 0
    })
    .await;
    other.idle().await.unwrap();
    assert!(serving.state().borrow().is_connected());
}

#[lepus::service]
trait Third {
    async fn idle(&self);
}

impl Third for Idle {
    async fn idle(&self) {}
}

async fn a_queue_of_another_connection(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    let options = lapin::options::QueueDeclareOptions {
        exclusive: true,
        ..durable()
    };
    raw.declare_with(&queue, options, &[]).await.unwrap();
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let error = serve(&serving, &subject).start().await.unwrap_err();
    assert_eq!(error.amqp_code(), Some(405), "{error}");
    assert!(error.to_string().contains(&queue), "{error}");
    raw.close().await;
    let _server = serve(&serving, &subject).start().await.unwrap();
}

async fn a_connection_without_channels_left(env: Env) {
    let uri = format!("{}?channel_max=4", env.uri);
    let serving = env.builder_at(&uri).open().await.unwrap();
    env.name("probe");
    let subject = Arc::new(Subject::default());
    let mut servers = Vec::new();
    let error = loop {
        match serve(&serving, &subject).start().await {
            Ok(server) => servers.push(server),
            Err(error) => break error,
        }
        assert!(servers.len() < 10);
    };
    assert!(error.is_invalid(), "{error:?}");
    assert!(error.to_string().contains("channel_max"), "{error}");
    assert!(serving.state().borrow().is_connected());
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    assert_eq!(probe.echo("served".into()).await.unwrap(), "served");
    // A place that is given back can be taken again.
    servers.pop().unwrap().stop().await.unwrap();
    let server = eventually("a channel", || serve(&serving, &subject).start()).await;
    servers.push(server);
    assert_eq!(probe.echo("served".into()).await.unwrap(), "served");
}

async fn pending_calls_end(env: Env) {
    let rig = Rig::start(&env).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    let idempotent = rig
        .probe
        .hold_idempotent(2)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    rig.subject.gate.entered(1).await;
    rig.calling.close().await;
    for error in [
        call.await.unwrap_err().rpc().unwrap().clone(),
        idempotent.await.unwrap_err().rpc().unwrap().clone(),
    ] {
        assert!(error.is_closed() && error.is_disconnected(), "{error}");
        assert!(error.may_have_executed() && !error.is_timeout(), "{error}");
        assert!(
            error.to_string().contains("the connection is closed"),
            "{error}"
        );
    }
    assert_eq!(rig.calling.stats().pending_calls, 0);
    assert!(matches!(
        *rig.calling.state().borrow(),
        ConnectionState::Closed
    ));
    if let Some(broker) = env.embedded() {
        eventually("one connection is left", || async {
            broker.connections().len() == 1
        })
        .await;
    }
}

async fn servers_end(env: Env) {
    let rig = Rig::start(&env).await;
    let call = rig.probe.hold(1).timeout(LONG).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let serving = tokio::spawn(rig.server.until(std::future::pending()));
    rig.serving.close().await;
    let error = serving.await.unwrap().unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert_eq!(rig.subject.gate.dropped(), 1);
    // What it had in hand is for the next.
    rig.subject.gate.open_for_good();
    let next = env.connect().await;
    let _server = serve(&next, &rig.subject).start().await.unwrap();
    assert_eq!(call.await.unwrap(), 1);
}

async fn the_last_holder_closes_it(env: Env) {
    let rig = Rig::start(&env).await;
    let Rig {
        probe,
        calling,
        serving,
        server,
        subject,
        queue,
    } = rig;
    let raw = Raw::open(&env.uri).await;
    let call = tokio::spawn(probe.hold(1).timeout(LONG).send());
    let call = call.await.unwrap().unwrap();
    subject.gate.entered(1).await;
    drop((probe, calling));
    // A call that is still awaited holds the connection.
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    drop((serving, server));
    eventually("no consumer", || async {
        raw.count(&queue).await.consumers == 0
    })
    .await;
    if let Some(broker) = env.embedded() {
        eventually("no connection but the test's", || async {
            let left = broker.connections();
            if left.len() == 1 {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }
}

async fn a_server_holds_its_connection(env: Env) {
    let subject = Arc::new(Subject::default());
    let server = serve(&env.connect().await, &subject).start().await.unwrap();
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    env.name("probe");
    assert_eq!(probe.echo("held".into()).await.unwrap(), "held");
    server.stop().await.unwrap();
    if let Some(broker) = env.embedded() {
        eventually("one connection is left", || async {
            broker.connections().len() == 1
        })
        .await;
    }
}

/// For the compiler: what a handler holds may be moved between threads.
#[test]
fn contexts_and_connections_can_be_sent() {
    fn assert_send<T: Send + Sync + 'static>() {}
    assert_send::<lepus::Connection>();
    assert_send::<Context>();
    assert_send::<ProbeClient>();
    fn is_probe<T: Probe>() {}
    is_probe::<Subject>();
}
