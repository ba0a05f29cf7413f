//! No thread is left behind, however a connection ends.

use lepus::{Connection, amqp::Io};
use lepus_tests::gate::Gate;
use lepus_tests::probe::{ProbeClient, Subject, serve};
use lepus_tests::proxy::{Cut, Mode, Proxy};
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(10);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);

conformance!(in_turn;
    closed_connections,
    dropped_connections,
    attempts_that_failed,
    attempts_that_nobody_answers,
    attempts_that_were_dropped,
    connections_that_were_lost,
    a_connection_that_is_away,
    one_thread_is_enough_for_all_io,
    shared_io_takes_no_thread_of_its_own,
    a_closed_connection_holds_nothing_though_its_link_is_stalled,
);

/// The threads of connections, by name.
fn threads() -> BTreeMap<String, usize> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("Linux") {
        let comm = task.expect("an entry").path().join("comm");
        // A thread may end while it is looked at.
        let Ok(name) = std::fs::read_to_string(comm) else {
            continue;
        };
        let name = name.trim();
        if ["lepus-io", "lapin-io-loop"].contains(&name) {
            *threads.entry(name.to_owned()).or_default() += 1;
        }
    }
    threads
}

/// The sockets of this process.
fn sockets() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_socket = |target: &std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
    targets.filter(is_socket).count()
}

/// Waits until no connection has a thread: at the start of a test, for those of the test before.
pub(crate) async fn no_threads() {
    only_threads("no thread of a connection", &[]).await;
}

/// A thread has no name of its own yet in its first moment, and takes a moment to end.
async fn only_threads(what: &str, expected: &[(&str, usize)]) {
    let expected = expected
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    let expected: BTreeMap<String, usize> = expected.collect();
    eventually(what, || async {
        let now = threads();
        if now == expected {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
}

async fn in_use(env: &Env, connection: &Connection) -> (lepus::Running, ProbeClient) {
    env.name("probe");
    let subject = Arc::new(Subject::default());
    subject.gate.open_for_good();
    let server = serve(connection, &subject).start().await.unwrap();
    let probe = ProbeClient::new(connection);
    probe.echo("hi".into()).timeout(LONG).await.unwrap();
    probe.note(1).await.unwrap();
    (server, probe)
}

async fn closed_connections(env: Env) {
    no_threads().await;
    let connection = env.connect().await;
    assert!(!threads().is_empty(), "they are found");
    let (server, probe) = in_use(&env, &connection).await;
    connection.close().await;
    drop((server, probe, connection));
    no_threads().await;
}

async fn dropped_connections(env: Env) {
    no_threads().await;
    // Never used, used, with calls pending.
    drop(env.connect().await);
    let connection = env.connect().await;
    drop((in_use(&env, &connection).await, connection));
    let connection = env.connect().await;
    let (server, probe) = in_use(&env, &connection).await;
    let held = Gate::default();
    let task = tokio::spawn({
        let held = held.clone();
        async move {
            let call = probe.hold(1).timeout(LONG).send().await.unwrap();
            held.pass().await;
            drop(call);
        }
    });
    held.entered(1).await;
    drop((server, connection));
    task.abort();
    no_threads().await;
}

async fn attempts_that_failed(env: Env) {
    no_threads().await;
    let proxy = Proxy::start(&env.uri).await;
    let wrong = proxy.uri().replace("guest:guest@", "guest:wrong@");
    for _ in 0..3 {
        assert!(
            env.builder_at(&wrong)
                .open()
                .await
                .unwrap_err()
                .is_bad_credentials()
        );
        let nowhere = format!("{}/nowhere", proxy.uri().trim_end_matches("/%2F"));
        assert!(
            env.builder_at(&nowhere)
                .open()
                .await
                .unwrap_err()
                .is_bad_virtual_host()
        );
    }
    for mode in [Mode::Refuse, Mode::AcceptThenClose, Mode::AcceptSilent] {
        proxy.set(mode).await;
        for _ in 0..3 {
            let attempt = env.builder_at(proxy.uri()).connect_timeout(SHORT).open();
            assert!(attempt.await.unwrap_err().is_connect());
        }
    }
    no_threads().await;
}

async fn attempts_that_nobody_answers(env: Env) {
    no_threads().await;
    let (deaf, _backlog) = deaf().await;
    let builder = env.builder_at(&deaf).connect_timeout(SHORT);
    // It fails for ever, and keeps its runtime.
    let connection = builder.backoff(SOON, SOON).retry_at_start().open().await;
    let connection = connection.unwrap();
    let call = ProbeClient::new(&connection).echo("hi".into());
    let call = tokio::spawn(call.timeout(SHORT * 10).into_future());
    let mut most = 0;
    while !call.is_finished() {
        let threads = threads().get("lapin-io-loop").copied();
        most = most.max(threads.unwrap_or_default());
        // Between two looks.
        tokio::time::sleep(SOON).await;
    }
    // lapin is started when there is a socket for it.
    assert_eq!(most, 0);
    assert!(!call.await.unwrap().unwrap_err().may_have_executed());
    drop(connection);
    no_threads().await;
}

/// An address at which nobody answers, not even by a refusal, as long as the rest is kept.
async fn deaf() -> (String, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (format!("amqp://{address}"), (listener, waiting))
}

async fn attempts_that_were_dropped(env: Env) {
    no_threads().await;
    let proxy = Proxy::start(&env.uri).await;
    proxy.set(Mode::AcceptSilent).await;
    for n in 1..=3 {
        let attempt = tokio::spawn(env.builder_at(proxy.uri()).connect_timeout(LONG).open());
        eventually("it waits", || async { proxy.accepted() == n }).await;
        attempt.abort();
    }
    no_threads().await;
}

async fn connections_that_were_lost(env: Env) {
    no_threads().await;
    let (proxy, connection) = env.proxied().await;
    let (server, probe) = in_use(&env, &connection).await;
    for how in [Cut::Fin, Cut::Rst, Cut::Fin, Cut::Rst] {
        proxy.cut(how);
        eventually("calls as before", || async {
            probe.echo("hi".into()).timeout(LONG).await
        })
        .await;
    }
    let one_generation = [("lapin-io-loop", 2), ("lepus-io", 1)];
    only_threads("the threads of one generation", &one_generation).await;
    drop((server, probe, connection));
    no_threads().await;
}

/// Dropped while it tries to come back.
async fn a_connection_that_is_away(env: Env) {
    no_threads().await;
    let proxy = Proxy::start(&env.uri).await;
    for mode in [Mode::Refuse, Mode::AcceptThenClose, Mode::AcceptSilent] {
        proxy.set(Mode::Forward).await;
        let builder = env
            .builder_at(proxy.uri())
            .backoff(SOON, SHORT)
            .connect_timeout(LONG);
        let connection = builder.open().await.unwrap();
        let (server, probe) = in_use(&env, &connection).await;
        let before = proxy.accepted();
        proxy.set(mode).await;
        proxy.cut(Cut::Rst);
        let mut state = connection.state();
        state.wait_for(|state| !state.is_connected()).await.unwrap();
        if mode != Mode::Refuse {
            eventually("an attempt", || async { proxy.accepted() > before }).await;
        }
        drop((server, probe, connection));
        no_threads().await;
    }
}

/// lapin has one for each AMQP connection, and that is all.
/// And two of lapin's: one for each AMQP connection.
async fn one_thread_is_enough_for_all_io(env: Env) {
    no_threads().await;
    let connection = env.connect().await;
    let (server, probe) = in_use(&env, &connection).await;
    let expected = [("lapin-io-loop", 2), ("lepus-io", 1)];
    only_threads("one thread for I/O, and lapin's", &expected).await;
    drop((server, probe, connection));
    no_threads().await;
}

async fn shared_io_takes_no_thread_of_its_own(env: Env) {
    no_threads().await;
    let connection = env.builder().io(Io::Shared).open().await.unwrap();
    let (server, probe) = in_use(&env, &connection).await;
    // A third thread of lapin's, once seen on RabbitMQ, was that of the connection which deleted the
    // queues of the test before.
    only_threads("lapin's threads alone", &[("lapin-io-loop", 2)]).await;
    drop((server, probe, connection));
    no_threads().await;
}

async fn a_closed_connection_holds_nothing_though_its_link_is_stalled(env: Env) {
    no_threads().await;
    let (proxy, connection) = env.proxied().await;
    let (server, probe) = in_use(&env, &connection).await;
    proxy.stall_both();
    let before = sockets();
    connection.close().await;
    eventually("no thread of lapin's, and two sockets less", || async {
        let (threads, sockets) = (threads(), sockets());
        if !threads.contains_key("lapin-io-loop") && sockets + 2 <= before {
            Ok(())
        } else {
            Err(format!("{threads:?}, {sockets} sockets of {before}"))
        }
    })
    .await;
    drop((server, probe, connection));
    no_threads().await;
}
