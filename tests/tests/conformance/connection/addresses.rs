//! Addresses of brokers: how they are written, what their errors say and never say, and the limits
//! that are negotiated. The lifetime of a connection is in `mod.rs`.

use lepus::{Connection, Error, amqp::ConnectionBuilder};
use lepus_broker::Broker;
use lepus_tests::error::everything;
use lepus_tests::proxy::{Mode, Proxy};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::net::Ipv6Addr;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(200);

conformance!(brokers:
    refusals_show_no_credentials,
    each_address_is_named_with_its_fault,
    limits_are_negotiated,
    the_two_connections_of_one_have_names_of_their_own,
);

/// Faults of a connection to be made, which are seen before anything is tried.
async fn invalid(builder: ConnectionBuilder) -> Error {
    let shown = format!("{builder:?}");
    let opened = builder.connect_timeout(SHORT).open().await;
    let error = opened.expect_err("it is wrong");
    assert!(error.is_invalid(), "{shown}: {error:?}");
    for secret in ["s3cret", "user"] {
        // How the right form is told.
        let text = everything(&error).replace("user name", "");
        let text = text.replace("amqp://user:password@host:port/vhost", "");
        assert!(!text.contains(secret), "{secret} is in {text}");
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_address_shows_no_credentials() {
    for uri in [
        // The scheme forgotten, or half of it.
        "user:s3cret@localhost:5672/vhost",
        "amqp:user:s3cret@localhost",
        "amqp:/user:s3cret@localhost/",
        "amqp:///user:s3cret@localhost/",
        "amqp//user:s3cret@localhost",
        "amqp:\\\\user:s3cret@localhost",
        "user://user:s3cret@localhost",
        "amqp://amqp://user:s3cret@localhost",
        // What ends the authority in the middle of the password.
        "amqp://user:/s3cret@localhost",
        "amqp://user:1/s3cret@localhost",
        "amqp://user:?s3cret@localhost",
        "amqp://user:1?s3cret@localhost",
        "amqp://user:#s3cret@localhost",
        "amqp://user:1#s3cret@localhost",
        "amqp://user:s3@cret@s3cret@localhost",
        // Several addresses.
        "amqp://user:s3cret@localhost,user:s3cret@localhost",
        "amqp://user:s3cret@localhost:5672,localhost:5673/vhost",
        "amqp://user:s3cret@localhost/vhost,user:s3cret@localhost/vhost",
        "amqp://user:s3cret@localhost/,amqp:user:s3cret@localhost",
        "amqp://user:s3cret@localhost/,amqp://user:s3cret@",
        // The rest of it.
        "amqp://user:s3cret@",
        "amqp://:s3cret@localhost",
        "amqp://user:s3cret@:5672",
        "amqp://user:s3cret@localhost:",
        "amqp://user:s3cret@localhost:port",
        "amqp://user:s3cret@localhost:0",
        "amqp://user:s3cret@localhost:99999",
        "amqp://user:s3cret@localhost:5672:5672",
        "amqp://user:s3cret@2001:db8::1",
        "amqp://user:s3cret@[2001:db8::1",
        "amqp://user:s3cret@[2001:db8::1]5672",
        "amqp://user:s3cret@[localhost]",
        "amqp://user:s3cret@[::1%25]",
        "amqp://user:s3cret@local host",
        "amqp://user:s3cret @localhost",
        "amqp://user:s3cret%@localhost",
        "amqp://user:s3cret%zz@localhost",
        "amqp://user:s3cret%00@localhost",
        "amqp://user:s3cret%ff@localhost",
        "amqp://user:s3cret@localhost/a/b",
        "amqp://user:s3cret@localhost/a,b",
    ] {
        let error = invalid(Connection::builder(uri)).await;
        let further = Connection::builder("amqp://localhost").address(uri);
        let other = invalid(further).await;
        assert!(other.to_string().contains("address "), "{uri}: {other}");
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parameter_is_named_with_what_it_may_be() {
    for (query, texts) in [
        ("heartbeat=soon", ["`heartbeat`", "1 to 65535"]),
        ("heartbeat=0", ["`heartbeat`", "1 to 65535"]),
        ("heartbeat=65536", ["`heartbeat`", "1 to 65535"]),
        ("heartbeat=%2B5", ["`heartbeat`", "1 to 65535"]),
        ("heartbeat", ["`heartbeat`", "1 to 65535"]),
        ("frame_max=0", ["`frame_max`", "4096 to 1048576"]),
        ("frame_max=4095", ["`frame_max`", "4096 to 1048576"]),
        ("frame_max=4294967295", ["`frame_max`", "4096 to 1048576"]),
        ("frame_max=99999999999", ["`frame_max`", "4096 to 1048576"]),
        ("channel_max=0", ["`channel_max`", "1 to 65535"]),
        ("channel_max=65536", ["`channel_max`", "1 to 65535"]),
        ("connection_timeout=0", ["`connection_timeout`", "1 to"]),
        ("connection_timeout=5s", ["`connection_timeout`", "1 to"]),
        ("auth_mechanism=magic", ["`auth_mechanism`", "`external`"]),
        ("heartbeat=5&heartbeat=6", ["`heartbeat`", "twice"]),
        (
            "cacertfile=/etc/ca.pem",
            ["`cacertfile`", "certificate_authorities"],
        ),
        ("verify=verify_none", ["`verify`", "always verified"]),
        ("hartbeat=5", ["`hartbeat`", "`heartbeat`"]),
        ("Secret=5", ["query parameter", "`heartbeat`"]),
    ] {
        let error = invalid(Connection::builder(&format!("amqp://localhost?{query}"))).await;
        for text in texts {
            assert!(error.to_string().contains(text), "{query}: {error}");
        }
        assert!(!error.to_string().contains("Secret"), "{error}");
    }
}

/// The broker's text about a refused login names virtual host and user.
async fn refusals_show_no_credentials(env: Env) {
    let uri: lapin::uri::AMQPUri = env.uri.parse().unwrap();
    let (host, port) = (uri.authority.host, uri.authority.port);
    let missing = format!("amqp://guest:guest@{host}:{port}/s3cret%2Fvhost");
    let error = env.builder_at(&missing).open().await.unwrap_err();
    assert!(error.is_bad_virtual_host(), "{error:?}");
    let text = everything(&error);
    assert!(
        !text.contains("s3cret") && !text.contains("guest"),
        "{text}"
    );
    assert!(text.contains("530"), "the broker's answer is told: {text}");
    assert!(text.contains(&format!("{host}:{port}")), "{text}");

    let stranger = format!("amqp://s3cret:pa55@{host}:{port}");
    let error = env.builder_at(&stranger).open().await.unwrap_err();
    assert!(error.is_bad_credentials(), "{error:?}");
    let text = everything(&error);
    assert!(!text.contains("s3cret") && !text.contains("pa55"), "{text}");
}

async fn each_address_is_named_with_its_fault(env: Env) {
    let (away, deaf) = (Proxy::start(&env.uri).await, Proxy::start(&env.uri).await);
    away.set(Mode::Refuse).await;
    deaf.set(Mode::AcceptThenClose).await;
    let uri: lapin::uri::AMQPUri = env.uri.parse().unwrap();
    let (host, port) = (uri.authority.host, uri.authority.port);
    let stranger = format!("amqp://s3cret:s3cret@{host}:{port}");
    let list = format!("{},{stranger}", away.uri());
    let error = env
        .builder_at(&list)
        .address(deaf.uri())
        .connect_timeout(Duration::from_secs(5))
        .open()
        .await
        .unwrap_err();
    let text = error.to_string();
    for (address, fault) in [
        (away.uri().to_owned(), "refused"),
        (stranger, "refuses this user or password"),
        (deaf.uri().to_owned(), "does not speak AMQP"),
    ] {
        let uri: lapin::uri::AMQPUri = address.parse().unwrap();
        let place = format!("{}:{}", uri.authority.host, uri.authority.port);
        let said = text.split("; ").find(|part| part.contains(&place));
        let said = said.unwrap_or_else(|| panic!("{place} is not in {text}"));
        assert!(said.contains(fault), "{said}");
    }
    // The kind is of the broker that had the most to say.
    assert!(
        error.is_connect() && error.is_bad_credentials(),
        "{error:?}"
    );
    assert!(!everything(&error).contains("s3cret"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_connected_to() {
    let start = Broker::builder().address((Ipv6Addr::LOCALHOST, 0)).start();
    let broker = start.await.expect("a broker on [::1]");
    let uri = format!("amqp://guest:guest@{}", broker.address());
    assert!(uri.contains("[::1]:"), "{uri}");
    let connection = Connection::open(&uri).await.unwrap();
    assert!(
        format!("{connection:?}").contains("[::1]:"),
        "{connection:?}"
    );
    assert_eq!(broker.connections().len(), 1);
    connection.close().await;

    // Nobody else is given the credentials: localhost has the IPv4 broker of the other tests.
    let nowhere = "amqp://guest:guest@[::1]:1";
    let error = Connection::open(nowhere).await.unwrap_err();
    assert!(
        error.is_connect() && !error.is_bad_credentials(),
        "{error:?}"
    );
    assert!(error.to_string().contains("[::1]:1"), "{error}");
}

async fn limits_are_negotiated(env: Env) {
    let with = |query: &str| format!("{}?{query}", env.uri);
    for query in [
        "frame_max=4096&channel_max=5&heartbeat=1",
        "frame_max=1048576&channel_max=65535&heartbeat=65535",
        "connection_timeout=5000&auth_mechanism=plain",
        "auth_mechanism=AMQPLAIN",
    ] {
        let opened = env.builder_at(&with(query)).open().await;
        let connection = opened.unwrap_or_else(|error| panic!("{query}: {error}"));
        // A message of several frames passes.
        let queue = lepus::WorkQueue::<String>::new("limits");
        env.name("limits");
        let text = "x".repeat(300_000);
        queue.producer(&connection).push(&text).await.unwrap();
        let getter = queue.getter(&connection);
        let taken = getter.next().await.unwrap().expect("a job");
        assert_eq!(taken.payload().unwrap().len(), text.len());
        taken.ack().unwrap();
        connection.close().await;
    }
}

/// `connection.list` of both brokers shows them.
async fn the_two_connections_of_one_have_names_of_their_own(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("the names of a shared node's connections are not asked for");
    };
    let connection = env.builder().name("warren").open().await.unwrap();
    let names = || {
        let mut names: Vec<_> = broker
            .connections()
            .into_iter()
            .filter_map(|connection| connection.name)
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["warren"]);
    let queue = lepus::WorkQueue::<String>::new("named");
    let producer = queue.producer(&connection);
    producer.push(&"x".into()).await.unwrap();
    let worker = queue.worker(&connection);
    let _running = worker
        .start(async |_: lepus::Job<String>| {})
        .await
        .unwrap();
    let both = ["warren", "warren (consuming)"];
    eventually("two names", || async {
        if names() == both {
            Ok(())
        } else {
            Err(names().join(", "))
        }
    })
    .await;
    // They keep them.
    broker
        .faults()
        .cut(lepus_broker::Target::All, lepus_broker::Cut::Rst);
    eventually("the same names again", || async {
        if names() == both {
            Ok(())
        } else {
            Err(names().join(", "))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_any_letters_get_in() {
    for password in ["p@ss:w/rd?#%,", "pass,word", "päss wörd", "", "{^}|\"<>"] {
        let broker = Broker::builder().user("us@r:/,x", password).start();
        let broker = broker.await.unwrap();
        let connection = Connection::open(&broker.uri()).await;
        let connection = connection.unwrap_or_else(|error| panic!("{password}: {error}"));
        connection.close().await;
    }
    // A comma may stand as it is; it separates addresses only where a scheme follows.
    let broker = Broker::builder().user("user", "a,b").start().await.unwrap();
    let address = broker.address();
    let uri = format!("amqp://127.0.0.1:1/, AMQP://user:a,b@{address}");
    let connection = Connection::open(&uri).await.unwrap();
    connection.close().await;
    let raw = Raw::try_open(&broker.uri()).await.unwrap();
    raw.close().await;
}
