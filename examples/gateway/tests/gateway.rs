//! The gateway over HTTP: what the layers of the services refuse, what they let through, and a service that is down.

use std::process::Stdio;
use std::time::Duration;

use lepus::Connection;
use lepus_broker::Broker;
use lepus_gateway::{Program, connect, http, mails, orders, stock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Nothing of this test takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(30);

/// The time of an HTTP request: time enough where all services are there.
const LIMIT: Duration = Duration::from_secs(3);

const CARROT: (&str, &str) = ("authorization", "Bearer carrot");
const MEADOW: (&str, &str) = ("x-tenant", "meadow");
const ORDER: &str = r#"{"item": "turnip", "count": 2}"#;

/// The gateway and its services, each with a connection of its own.
struct System {
    address: String,
    gateway: Connection,
    stock: Program,
    orders: Program,
    _broker: Broker,
}

impl System {
    async fn start() -> Self {
        let broker = Broker::start().await.expect("a broker");
        let uri = broker.uri();
        let stock = stock::start(&uri).await.expect("the stock");
        let orders = orders::start(&uri).await.expect("the orders");
        let (address, gateway) = serve(&uri).await;
        Self {
            address,
            gateway,
            stock,
            orders,
            _broker: broker,
        }
    }
}

/// The gateway alone: its address and its connection.
async fn serve(uri: &str) -> (String, Connection) {
    let gateway = connect(uri, "gateway").await.expect("a connection");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let router = http::router(&gateway, LIMIT);
    tokio::spawn(axum::serve(listener, router).into_future());
    (address, gateway)
}

/// A response of the gateway.
#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        Some(found.next()?.1)
    }
}

/// Sends an HTTP request with a body of JSON, or a GET without one.
async fn send(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address)
            .await
            .expect("the gateway listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        stream
            .read_to_string(&mut response)
            .await
            .expect("a response");
        response
    };
    let response = tokio::time::timeout(LONG, exchange).await.expect("in time");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Response {
        status: status.expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn order(address: &str, headers: &[(&str, &str)]) -> Response {
    send(address, "/orders", headers, ORDER).await
}

#[tokio::test]
async fn the_layers_refuse_and_let_through() {
    let system = System::start().await;
    let address = &system.address;

    let response = order(address, &[MEADOW]).await;
    assert_eq!(
        (response.status, &*response.body),
        (401, "a token is needed")
    );
    assert!(
        response
            .header("x-request-id")
            .is_some_and(|id| id.len() == 32),
        "{response:?}"
    );

    let response = order(address, &[MEADOW, ("authorization", "Bearer weed")]).await;
    assert_eq!(
        (response.status, &*response.body),
        (401, "this token is not valid")
    );

    let response = order(address, &[CARROT]).await;
    assert_eq!(
        (response.status, &*response.body),
        (400, "a tenant is needed")
    );

    let response = order(address, &[CARROT, ("x-tenant", "burrow")]).await;
    assert_eq!(
        (response.status, &*response.body),
        (403, "`burrow` is not one of your tenants")
    );

    let response = order(address, &[CARROT, MEADOW, ("x-request-id", "7f3a")]).await;
    assert_eq!(
        (response.status, &*response.body),
        (
            200,
            r#"{"user":"Hare","tenant":"meadow","item":"turnip","left":1}"#
        )
    );
    assert_eq!(response.header("x-request-id"), Some("7f3a"));

    // The error of the stock's own, over the orders.
    let response = order(address, &[CARROT, MEADOW]).await;
    assert_eq!((response.status, &*response.body), (400, "only 1 left"));
    // Another tenant has a stock of its own.
    let response = send(
        address,
        "/stock/turnip",
        &[CARROT, ("x-tenant", "forest")],
        "",
    )
    .await;
    assert_eq!((response.status, &*response.body), (200, "3"));
}

#[tokio::test]
async fn a_service_that_is_down_is_told_from_one_that_was_never_there() {
    let system = System::start().await;
    let (address, headers) = (&system.address, [CARROT, MEADOW]);
    // Requests wait in the queue of the stock, until their time is up.
    system.stock.stop().await.expect("stopped");
    let late = (504, "the deadline passed");
    let response = send(address, "/stock/turnip", &headers, "").await;
    assert_eq!((response.status, &*response.body), late);
    // The orders miss it, and answer before the time of the gateway is up.
    let response = order(address, &headers).await;
    assert_eq!((response.status, &*response.body), late);
    assert!(response.header("x-request-id").is_some(), "{response:?}");

    let broker = Broker::start().await.expect("a broker");
    let (address, _gateway) = serve(&broker.uri()).await;
    let response = order(&address, &headers).await;
    let unavailable = (503, "the service is not available now");
    assert_eq!((response.status, &*response.body), unavailable);
}

#[tokio::test]
async fn a_mail_without_a_token_is_a_dead_letter() {
    let system = System::start().await;
    let connection = connect(&system._broker.uri(), "test")
        .await
        .expect("a connection");
    let producer = mails::queue().producer(&connection);
    producer.push(&"spam".to_owned()).await.expect("pushed");
    let dead_letters = mails::queue().dead_letters(&connection);
    let letter = tokio::time::timeout(LONG, async {
        loop {
            let letters = dead_letters.list(10).await.expect("a list");
            if let Some(letter) = letters.into_iter().next() {
                return letter;
            }
            tokio::task::yield_now().await;
        }
    });
    let letter = letter.await.expect("in time");
    assert_eq!(letter.reason(), "rejected");
    assert!(letter.error().contains("a token is needed"), "{letter:?}");
    connection.close().await;
    system.orders.stop().await.expect("stopped");
    system.stock.stop().await.expect("stopped");
    system.gateway.close().await;
}

/// The program, as a user runs it, with the embedded broker.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    async fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lepus-gateway"))
            .arg("127.0.0.1:0")
            .env_remove("AMQP_URL")
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program");
        let stdout = child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let address = loop {
            let line = lines.next_line().await.expect("read").expect("it listens");
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.to_owned();
            }
        };
        Self { child, address }
    }

    /// Interrupts it, and returns its log.
    async fn stop(self) -> String {
        let pid = self.child.id().expect("it runs").to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status().await;
        assert!(kill.expect("kill").success());
        let output = tokio::time::timeout(LONG, self.child.wait_with_output()).await;
        let output = output.expect("in time").expect("ended");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        log
    }
}

#[tokio::test]
async fn the_program_needs_nothing_else_and_logs_each_message() {
    let program = tokio::time::timeout(LONG, Running::start())
        .await
        .expect("in time");
    let headers = [CARROT, MEADOW, ("x-request-id", "7f3a")];
    let response = order(&program.address, &headers).await;
    assert_eq!(response.status, 200, "{response:?}");
    let log = program.stop().await;
    // One line for each of the two requests, with the id that came over HTTP, and one for the mail.
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("lepus::access"))
        .collect();
    let of = |words: [&str; 3]| {
        let found = lines
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        assert_eq!(found.count(), 1, "{words:?}: {log}");
    };
    of(["7f3a", "orders", "place"]);
    of(["7f3a", "stock", "take"]);
    of(["gateway.mails", "done", "acknowledged"]);
    assert_eq!(lines.len(), 3, "{log}");
}
