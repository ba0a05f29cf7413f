//! Opening of connections, and its refusals.

use super::{LONG, SHORT, SOON, with};
use lepus::amqp::ConnectionState;
use lepus_tests::error::everything;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, serve};
use lepus_tests::proxy::{Mode, Proxy};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

conformance!(
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
    // Not before its limit, on a slow machine as well.
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
    let fixture = RpcFixture::over(&env, env.connect().await, calling).await;
    assert_eq!(fixture.probe.echo("second".into()).await.unwrap(), "second");
    // And when that one goes, the first again.
    first.up().await;
    second.down().await;
    let mut state = fixture.calling.state();
    state
        .wait_for(|_| second.open() == 0 && first.open() == 1)
        .await
        .unwrap();
    assert_eq!(
        fixture
            .probe
            .echo("first".into())
            .timeout(LONG)
            .await
            .unwrap(),
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
