//! Tests that need a RabbitMQ of their own: restarts and kills, alarms, passwords, permissions, TLS. The
//! numbers in the names are rows of the table in docs/reliability.md.
//!
//! A node takes seconds to start, so those that can share one do, one after the other.

use lepus::{
    Connection, Outcome, WorkQueue,
    amqp::{ConnectionBuilder, ConnectionState},
    jobs::Producer,
};
use lepus_tests::deadline;
use lepus_tests::error::everything;
use lepus_tests::eventually::within;
use lepus_tests::node::{self, Node, Tls};
use lepus_tests::probe::{ProbeClient, Subject, serve, serve_concurrently};
use lepus_tests::raw::Raw;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);
/// For a node that starts, and what is tried on it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn rows_09_10_restarted_and_killed() {
    let name = "rows_09_10_restarted_and_killed";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let node = Node::start().await;
        let ledgers = [
            Ledger::new(WorkQueue::new("killed.quorum")),
            Ledger::new(WorkQueue::new("killed.classic").classic()),
        ];
        // Before the restart: RabbitMQ 3.10 writes the list of its quorum queues down when it
        // stops and seldom else, and a queue that is not on it has no leader after a kill.
        let connection = connect(node.uri()).await;
        for ledger in &ledgers {
            ledger.queue.declare(&connection).await.unwrap();
        }
        connection.close().await;
        row_09_a_restart_ends_calls_and_keeps_jobs(&node).await;
        row_10_a_kill_loses_no_confirmed_job(&node, &ledgers).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_46_49_50_51_alarms_users_and_tls() {
    let name = "rows_46_49_50_51_alarms_users_and_tls";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let authority = Authority::new();
        let node = Node::setup()
            .tls(authority.certify_all(&["localhost", "::1"], 4096))
            .start()
            .await;
        row_46_an_alarm_stops_what_is_sent_and_nothing_else(&node).await;
        row_49_a_password_changed_later_is_waited_for(&node).await;
        row_50_what_a_user_may_not_do_is_named(&node).await;
        classic_queues_are_classic_whatever_the_default(&node).await;
        row_51_tls_is_right_or_refused(&node, &authority).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_51_a_client_certificate_logs_in() {
    let name = "row_51_a_client_certificate_logs_in";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let authority = Authority::new();
        let node = Node::setup()
            .plugin("rabbitmq_auth_mechanism_ssl")
            .config("auth_mechanisms.1 = EXTERNAL")
            .config("auth_mechanisms.2 = PLAIN")
            .config("ssl_cert_login_from = common_name")
            .config("ssl_options.verify = verify_peer")
            .config("ssl_options.fail_if_no_peer_cert = true")
            .tls(authority.certify("localhost"))
            .start()
            .await;
        // The user is the one of the certificate, whatever the URI says.
        node.ctl(&["add_user", "hare", "unused"]).await;
        node.ctl(&["set_permissions", "hare", ".*", ".*", ".*"])
            .await;
        let uri = node.tls_uri();
        let (_, place) = uri.rsplit_once('@').expect("credentials");
        let external = format!("amqps://{place}?auth_mechanism=external");
        let with = |tls: &Tls| {
            at(&external)
                .certificate_authorities(&authority.pem)
                .client_certificate(tls.certificate.as_bytes(), tls.key.as_bytes())
        };
        let connection = with(&authority.certify_client("hare")).open().await;
        let connection = connection.expect("a login by certificate");
        let subject = Arc::new(Subject::default());
        let _server = serve(&connection, &subject).start().await.unwrap();
        let reply = ProbeClient::new(&connection).echo("x".into()).await;
        assert_eq!(reply.unwrap(), "x");
        let list = node
            .ctl(&["list_connections", "user", "auth_mechanism", "ssl"])
            .await;
        for line in list.lines().filter(|line| line.contains("EXTERNAL")) {
            assert_eq!(
                line.split('\t').collect::<Vec<_>>(),
                ["hare", "EXTERNAL", "true"]
            );
        }
        assert_eq!(list.matches("EXTERNAL").count(), 2, "{list}");
        connection.close().await;

        let error = refused(with(&authority.certify_client("stranger"))).await;
        assert!(error.is_bad_credentials(), "{error:?}");
        // Another authority's certificate, and none.
        let error = refused(with(&Authority::new().certify_client("hare"))).await;
        assert!(!error.is_bad_credentials(), "{error:?}");
        refused(at(&external).certificate_authorities(&authority.pem)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_51_a_certificate_for_another_host_is_refused() {
    let name = "row_51_a_certificate_for_another_host_is_refused";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let authority = Authority::new();
        let tls = authority.certify("rabbit.example");
        let node = Node::setup().tls(tls).start().await;
        let error = refused(at(&node.tls_uri()).certificate_authorities(&authority.pem)).await;
        assert!(error.is_tls(), "{error:?}");
        let text = everything(&error).to_lowercase();
        assert!(text.contains("not valid for name"), "{text}");

        let uri = over_ipv6(&node).await;
        let error = refused(at(&uri).certificate_authorities(&authority.pem)).await;
        assert!(error.is_tls(), "{error:?}");
        let text = everything(&error).to_lowercase();
        assert!(text.contains("not valid for name"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_51_an_expired_certificate_is_refused() {
    let name = "row_51_an_expired_certificate_is_refused";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let authority = Authority::new();
        let tls = authority.certify_until("localhost", 2020);
        let node = Node::setup().tls(tls).start().await;
        let error = refused(at(&node.tls_uri()).certificate_authorities(&authority.pem)).await;
        assert!(error.is_tls(), "{error:?}");
        // In what a user prints of it, with its causes.
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        assert!(text.to_lowercase().contains("expired"), "{text}");
    })
    .await;
}

fn at(uri: &str) -> ConnectionBuilder {
    let quick = Duration::from_millis(10);
    Connection::builder(uri).backoff(quick, SHORT)
}

async fn connect(uri: &str) -> Connection {
    at(uri).open().await.expect("a connection")
}

async fn refused(builder: ConnectionBuilder) -> lepus::Error {
    let error = builder.open().await.expect_err("it is refused");
    assert!(error.is_connect(), "{error:?}");
    error
}

/// An error and its causes, as a user prints them, have the broker's words once.
fn says_nothing_twice(error: &lepus::Error) {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    let said = texts.join(": ");
    assert_eq!(said.matches("ACCESS_REFUSED").count(), 1, "{said}");
}

/// Jobs by number, and those that a worker has done.
#[derive(Clone)]
struct Ledger {
    queue: WorkQueue<u32>,
    done: Arc<Mutex<BTreeSet<u32>>>,
}

impl Ledger {
    fn new(queue: WorkQueue<u32>) -> Ledger {
        let done = Arc::default();
        Ledger { queue, done }
    }

    fn done(&self) -> BTreeSet<u32> {
        self.done.lock().expect("no panic under a lock").clone()
    }

    async fn work(&self, connection: &Connection) -> lepus::Running {
        let done = Arc::clone(&self.done);
        let handler = move |job: lepus::Job<u32>| {
            done.lock()
                .expect("no panic under a lock")
                .insert(job.into_payload());
            async { Ok::<(), std::io::Error>(()) }
        };
        let pool = self.queue.worker(connection).concurrency(4);
        pool.start(handler).await.expect("a worker")
    }

    async fn all_done(&self, jobs: &BTreeSet<u32>) {
        within("all confirmed jobs are done", LONG, || async {
            let done = self.done();
            let left: Vec<_> = jobs.difference(&done).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{} left, such as {:?}", left.len(), left[0]))
            }
        })
        .await;
    }
}

async fn row_09_a_restart_ends_calls_and_keeps_jobs(node: &Node) {
    let (serving, calling) = (connect(node.uri()).await, connect(node.uri()).await);
    let subject = Arc::new(Subject::default());
    let _server = serve(&serving, &subject).start().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let ledger = Ledger::new(WorkQueue::new("kept"));
    let producer = ledger.queue.producer(&calling);
    for job in 0..20 {
        producer.push(&job).await.unwrap();
    }
    let call = probe.hold(1).timeout(LONG).send().await.unwrap();
    subject.gate.entered(1).await;
    let began = Instant::now();
    node.ctl(&["stop_app"]).await;
    let error = call.await.unwrap_err();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    println!("row 9: the call ended after {:?}", began.elapsed());
    let error = probe.echo("away".into()).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    subject.gate.open_for_good();

    let up = Instant::now();
    node.ctl(&["start_app"]).await;
    let started = up.elapsed();
    let reply = probe.echo("back".into()).timeout(LONG).await;
    assert_eq!(reply.unwrap(), "back");
    println!(
        "row 9: started after {started:?}, answered after {:?}",
        up.elapsed()
    );
    producer.push(&20).await.unwrap();
    let _worker = ledger.work(&serving).await;
    ledger.all_done(&(0..21).collect()).await;
    calling.close().await;
    serving.close().await;
}

/// Pushes numbers until it is told to stop: which are confirmed, and which may be there or not.
struct Pushing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(BTreeSet<u32>, BTreeSet<u32>)>,
}

impl Pushing {
    fn start(producer: Producer<u32>) -> Pushing {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut confirmed, mut unknown) = (BTreeSet::new(), BTreeSet::new());
            let mut next = 0_u32;
            while !stopped.load(Ordering::SeqCst) {
                let batch: Vec<u32> = (next..next + 20).collect();
                next += 20;
                for (job, outcome) in batch.iter().zip(producer.push_all(&batch).await) {
                    match outcome {
                        Ok(()) => drop(confirmed.insert(*job)),
                        Err(error) if error.may_have_executed() => {
                            assert!(error.is_unconfirmed() || error.is_timeout(), "{error:?}");
                            unknown.insert(*job);
                        }
                        Err(error) => {
                            // A quorum queue that has no leader yet refuses what it is sent.
                            let expected = error.is_disconnected() || error.is_rejected();
                            assert!(expected || error.is_timeout(), "{error:?}");
                        }
                    }
                }
            }
            (confirmed, unknown)
        });
        Pushing { stop, task }
    }

    async fn stop(self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("no panic")
    }
}

async fn row_10_a_kill_loses_no_confirmed_job(node: &Node, ledgers: &[Ledger]) {
    let connection = connect(node.uri()).await;
    let raw = Raw::open(node.uri()).await;
    let mut pushing = Vec::new();
    for ledger in ledgers {
        let producer = ledger.queue.producer(&connection);
        pushing.push(Pushing::start(producer.timeout(3 * SECOND)));
    }
    for ledger in ledgers {
        within("some hundred jobs", LONG, || async {
            let messages = raw.count(ledger.queue.name()).await.messages;
            if messages >= 300 {
                Ok(())
            } else {
                Err(messages)
            }
        })
        .await;
    }
    node.kill().await;
    node.start_again().await;
    let up = Instant::now();
    within("connected again", LONG, || async {
        connection.state().borrow().is_connected()
    })
    .await;
    println!("row 10: back {:?} after the broker", up.elapsed());
    let worker = connect(node.uri()).await;
    let mut pushed = Vec::new();
    for pushing in pushing {
        pushed.push(pushing.stop().await);
    }
    for (ledger, (confirmed, unknown)) in ledgers.iter().zip(pushed) {
        let _worker = ledger.work(&worker).await;
        ledger.all_done(&confirmed).await;
        let allowed: BTreeSet<u32> = confirmed.union(&unknown).copied().collect();
        let done = ledger.done();
        let phantoms: Vec<_> = done.difference(&allowed).collect();
        assert!(phantoms.is_empty(), "not sent, and done: {phantoms:?}");
        println!(
            "row 10: {}: {} confirmed and all done, {} unknown",
            ledger.queue.name(),
            confirmed.len(),
            unknown.len()
        );
    }
    connection.close().await;
    worker.close().await;
}

async fn row_46_an_alarm_stops_what_is_sent_and_nothing_else(node: &Node) {
    let (serving, calling, working) = (
        connect(node.uri()).await,
        connect(node.uri()).await,
        connect(node.uri()).await,
    );
    let subject = Arc::new(Subject::default());
    let _server = serve_concurrently(&serving, &subject, 10)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let ledger = Ledger::new(WorkQueue::new("alarmed"));
    let producer = ledger.queue.producer(&calling).timeout(SECOND);
    let jobs: Vec<u32> = (0..50).collect();
    for job in &jobs {
        // A quorum queue that has no leader yet refuses what it is sent.
        within("a job is stored", LONG, || producer.push(job).into_future()).await;
    }
    probe.echo("before".into()).await.unwrap();

    node.ctl(&["set_vm_memory_high_watermark", "0.00000001"])
        .await;
    // The node tells those who publish: this one is written, and read when the alarm is over.
    let first = probe.hold(1).timeout(SECOND).await.unwrap_err();
    let first = first.rpc().unwrap();
    assert!(first.is_timeout() && first.may_have_executed(), "{first}");
    let mut state = calling.state();
    let blocked = |state: &ConnectionState| matches!(state, ConnectionState::Blocked { .. });
    let seen = tokio::time::timeout(LONG, state.wait_for(blocked)).await;
    match &*seen.expect("the alarm is seen").expect("a state") {
        ConnectionState::Blocked { reason, .. } => {
            assert!(reason.contains("memory"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    // From here on nothing is sent, and every call says so at its deadline.
    for id in 2..5 {
        let error = probe.hold(id).timeout(SHORT).await.unwrap_err();
        let error = error.rpc().unwrap().clone();
        assert!(
            error.is_blocked() && !error.may_have_executed(),
            "{error:?}"
        );
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
        assert!(error.to_string().contains("memory"), "{error}");
    }
    let error = producer.push(&99).await.unwrap_err();
    assert!(
        error.is_blocked() && !error.may_have_executed(),
        "{error:?}"
    );
    // What is consumed goes on, and its acknowledgements arrive.
    let worker = ledger.work(&working).await;
    ledger.all_done(&jobs.iter().copied().collect()).await;
    worker.stop().await.unwrap();
    working.close().await;
    let raw = Raw::open(node.uri()).await;
    raw.until_messages("alarmed", 0).await;
    let patient = tokio::spawn({
        let probe = probe.clone();
        async move { probe.echo("patient".into()).timeout(LONG).await }
    });

    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    assert_eq!(patient.await.unwrap().unwrap(), "patient");
    let up = tokio::time::timeout(LONG, state.wait_for(ConnectionState::is_connected)).await;
    up.expect("the end of the alarm is seen").expect("a state");
    producer.push(&50).await.unwrap();
    // Those that were not sent are not run. The one that made the node say so had left; the time
    // it waited in the node's socket is not part of its time.
    assert!(
        subject.ids().iter().all(|id| *id == 1),
        "{:?}",
        subject.ids()
    );
    assert_eq!(calling.stats().pending_calls, 0);
    serving.close().await;
    calling.close().await;
}

async fn row_49_a_password_changed_later_is_waited_for(node: &Node) {
    node.ctl(&["add_user", "hare", "clover"]).await;
    node.ctl(&["set_permissions", "hare", ".*", ".*", ".*"])
        .await;
    let uri = node.uri().replace("guest:guest@", "hare:clover@");
    let connection = connect(&uri).await;
    let subject = Arc::new(Subject::default());
    let _server = serve(&connection, &subject).start().await.unwrap();
    let probe = ProbeClient::new(&connection);
    probe.echo("before".into()).await.unwrap();

    node.ctl(&["change_password", "hare", "dandelion"]).await;
    node.ctl(&["close_all_user_connections", "hare", "changed"])
        .await;
    let mut state = connection.state();
    let is_refused = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.is_bad_credentials());
    let seen = tokio::time::timeout(LONG, state.wait_for(is_refused)).await;
    drop(seen.expect("the state says why").expect("a state"));
    let error = probe.echo("away".into()).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let error = refused(at(&uri)).await;
    assert!(error.is_bad_credentials(), "{error:?}");

    node.ctl(&["change_password", "hare", "clover"]).await;
    let reply = probe.echo("back".into()).timeout(LONG).await;
    assert_eq!(reply.unwrap(), "back");
    connection.close().await;
}

async fn row_50_what_a_user_may_not_do_is_named(node: &Node) {
    let error = refused(at(&format!("{}/nowhere", node.uri()))).await;
    assert!(error.is_bad_virtual_host(), "{error:?}");
    assert!(everything(&error).contains("530"), "{error:?}");
    assert!(!everything(&error).contains("nowhere"), "{error:?}");

    node.ctl(&["add_user", "mole", "worm"]).await;
    let uri = node.uri().replace("guest:guest@", "mole:worm@");
    let error = refused(at(&uri)).await;
    assert!(error.is_bad_virtual_host(), "{error:?}");
    assert!(!everything(&error).contains("mole"), "{error:?}");

    // In, and with no rights on our queues.
    // To push is to write to the default exchange.
    let (queue, write) = ("^hole$", r"^(hole|amq\.default)$");
    node.ctl(&["set_permissions", "mole", queue, write, queue])
        .await;
    let connection = connect(&uri).await;
    let subject = Arc::new(Subject::default());
    let error = serve(&connection, &subject).start().await.unwrap_err();
    assert_eq!(error.amqp_code(), Some(403), "{error:?}");
    let text = everything(&error);
    assert!(text.contains("probe") && text.contains("'mole'"), "{text}");
    let queue = WorkQueue::<u32>::new("jobs");
    let error = queue.producer(&connection).push(&1).await.unwrap_err();
    assert_eq!(error.amqp_code(), Some(403), "{error:?}");
    assert!(everything(&error).contains("jobs"), "{error:?}");
    assert_eq!(error.outcome(), Some(Outcome::Rejected));
    assert!(!error.to_string().contains("unroutable"), "{error}");
    assert!(!error.may_have_executed(), "{error}");
    says_nothing_twice(&error);
    // Its own work on the same connection is not harmed.
    let hole = WorkQueue::<u32>::new("hole")
        .classic()
        .dead_letter_queue("hole");
    let raw = Raw::open(node.uri()).await;
    raw.declare("hole").await;
    let producer = hole.passive().producer(&connection);
    producer.push(&1).await.unwrap();
    raw.until_messages("hole", 1).await;
    // A client needs a reply queue; without the right to one, its calls end in time.
    let error = ProbeClient::new(&connection)
        .echo("hi".into())
        .timeout(SECOND)
        .await
        .unwrap_err();
    assert!(!error.may_have_executed(), "{error:?}");
    connection.close().await;
}

async fn classic_queues_are_classic_whatever_the_default(node: &Node) {
    node.ctl(&["add_vhost", "replicated", "--default-queue-type", "quorum"])
        .await;
    node.ctl(&[
        "set_permissions",
        "-p",
        "replicated",
        "guest",
        ".*",
        ".*",
        ".*",
    ])
    .await;
    let uri = format!("{}/replicated", node.uri());
    let (connection, raw) = (connect(&uri).await, Raw::open(&uri).await);
    let kinds = || async {
        let columns = [
            "-q",
            "-p",
            "replicated",
            "--no-table-headers",
            "name",
            "type",
        ];
        let listed = node
            .ctl(&[&["list_queues"][..], &columns[..]].concat())
            .await;
        let mut lines: Vec<_> = listed.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // Both are there already: as other programs declare them, which is quorum here.
    raw.declare("old").await;
    raw.declare("old.dead").await;
    let old = WorkQueue::<u32>::new("old").classic();
    let new = WorkQueue::<u32>::new("new").classic().max_priority(3);
    let plain = WorkQueue::text("plain");
    old.producer(&connection).push(&1).await.unwrap();
    new.producer(&connection)
        .push(&2)
        .priority(1)
        .await
        .unwrap();
    let text = "3".to_owned();
    plain.producer(&connection).push(&text).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for queue in [old, new] {
        let tell = tell.clone();
        let handler = move |job: lepus::Job<u32>| {
            tell.send(job.into_payload()).unwrap();
            async {}
        };
        let worker = queue.worker(&connection).start(handler).await.unwrap();
        assert!(told.recv().await.is_some());
        worker.stop().await.unwrap();
    }
    let expected = [
        "new\tclassic",
        "new.dead\tclassic",
        "old\tquorum",
        "old.dead\tquorum",
        "plain\tquorum",
        "plain.dead\tquorum",
    ];
    assert_eq!(kinds().await, expected);
    // Other programs can declare the plain one plainly.
    raw.declare("plain").await;
    raw.close().await;
    connection.close().await;
}

async fn row_51_tls_is_right_or_refused(node: &Node, authority: &Authority) {
    let connection = at(&node.tls_uri())
        .certificate_authorities(&authority.pem)
        .open()
        .await
        .expect("the right authority");
    let subject = Arc::new(Subject::default());
    let _server = serve(&connection, &subject).start().await.unwrap();
    let large = "x".repeat(300_000);
    let reply = ProbeClient::new(&connection).echo(large.clone()).await;
    assert_eq!(reply.unwrap(), large);
    let list = node.ctl(&["list_connections", "ssl"]).await;
    assert!(list.contains("true"), "{list}");
    connection.close().await;

    // The address itself is what the certificate has to be for.
    let connection = at(&over_ipv6(node).await)
        .certificate_authorities(&authority.pem)
        .open()
        .await
        .expect("the right address");
    connection.close().await;

    let error = refused(at(&node.tls_uri())).await;
    assert!(error.is_tls(), "{error:?}");
    let text = everything(&error);
    assert!(text.contains("UnknownIssuer"), "{text}");
    let other = Authority::new();
    let error = refused(at(&node.tls_uri()).certificate_authorities(&other.pem)).await;
    assert!(error.is_tls(), "{error:?}");

    // A port that speaks no TLS is not spoken to without it.
    let plain = node.uri().replace("amqp://", "amqps://");
    let error = refused(at(&plain).certificate_authorities(&authority.pem)).await;
    assert!(error.is_tls(), "{error:?}");
    // Nor does a plain client get in where TLS is spoken.
    let secret = node.tls_uri().replace("amqps://", "amqp://");
    refused(at(&secret).connect_timeout(2 * SECOND)).await;
}

/// The node's TLS port by an IPv6 address: it listens on another one itself.
async fn over_ipv6(node: &Node) -> String {
    let uri = node.tls_uri();
    let (_, port) = uri.rsplit_once(':').expect("a port");
    let port: u16 = port.parse().expect("a port");
    let listener = TcpListener::bind("[::1]:0").await.expect("a port on [::1]");
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // It ends as either side does, in whatever way.
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    format!("amqps://guest:guest@{address}")
}

/// A certificate authority that nobody else knows.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).expect("an authority").pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        Authority { issuer, pem }
    }

    /// A certificate for a server of that name.
    fn certify(&self, host: &str) -> Tls {
        self.certify_until(host, 4096)
    }

    /// The same, good until that year.
    fn certify_until(&self, host: &str, year: i32) -> Tls {
        self.certify_all(&[host], year)
    }

    /// A client's certificate, with this as its common name.
    fn certify_client(&self, name: &str) -> Tls {
        self.certify_as(&[], name, 4096)
    }

    /// The same for a server of several names.
    fn certify_all(&self, hosts: &[&str], year: i32) -> Tls {
        self.certify_as(hosts, "lepus", year)
    }

    fn certify_as(&self, hosts: &[&str], name: &str, year: i32) -> Tls {
        let key = rcgen::KeyPair::generate().expect("a key");
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(hosts).expect("parameters");
        let common_name = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(common_name, name);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer);
        Tls {
            authority: self.pem.clone(),
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}
