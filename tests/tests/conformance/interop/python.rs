//! Lepus on one side, Python on the other: every pattern, both directions, on each broker.

use super::start;
use lepus::control::{HealthStatus, ServedKind};
use lepus::{Code, Discovery, Server, Status, Topic, jobs::TaskPool};
use lepus_tests::process::{Program, Signal, example, python_is_available};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc;

conformance!(
    python_calls_lepus,
    lepus_calls_python,
    python_sends_several_calls_at_once,
    the_tutorials_fib_in_both_directions,
    python_pushes_and_lepus_works,
    lepus_pushes_and_python_works,
    python_publishes_and_lepus_hears,
    lepus_publishes_and_python_hears,
    python_lists_the_services_of_lepus,
    lepus_lists_the_service_of_python,
);

conformance!(one_thread together:
    lepus_sends_several_calls_at_once,
);

#[lepus::service(name = "calculator")]
trait Calculator {
    async fn fib(&self, n: u64) -> u64;
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
    /// The header of this name.
    async fn tenant(&self) -> Option<String>;
    async fn busy(&self) -> Result<u64, Status>;
    async fn reversed(&self, data: Vec<u8>) -> Vec<u8>;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DivideByZero;

struct Pocket;

impl Calculator for Pocket {
    async fn fib(&self, n: u64) -> u64 {
        (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend.checked_div(divisor).ok_or(DivideByZero)
    }

    async fn tenant(&self) -> Option<String> {
        let context = lepus::Context::current();
        context.header("tenant").map(ToString::to_string)
    }

    async fn busy(&self) -> Result<u64, Status> {
        Err(busy())
    }

    async fn reversed(&self, mut data: Vec<u8>) -> Vec<u8> {
        data.reverse();
        data
    }
}

/// A status with all its parts. The Python server sends the same one.
fn busy() -> Status {
    Status::new(Code::ResourceExhausted, "busy")
        .with_retry_after(Duration::from_millis(1500))
        .with_details(b"\x82\x00\xff")
}

#[lepus::tasks(name = "images")]
trait Images {
    async fn resize(&self, id: u64) -> Result<(), String>;
}

struct Resized(mpsc::UnboundedSender<u64>);

impl Images for Resized {
    async fn resize(&self, id: u64) -> Result<(), String> {
        self.0.send(id).map_err(|_| "nobody looks".to_owned())
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LogLine {
    text: String,
}

/// A script that goes on until it is told; returns when it says that it waits.
async fn ready(env: &Env, script: &str, arguments: &[&str]) -> Program {
    let mut program = start(env, script, arguments);
    program.line_with(" [").await;
    program
}

async fn run(env: &Env, script: &str, arguments: &[&str]) -> Vec<String> {
    start(env, script, arguments).succeeded().await
}

async fn stop(program: Program) {
    program.signal(Signal::TERM);
    program.ended().await;
}

/// The status of `busy()`, as the Python clients print it.
const BUSY: &str = "error resource_exhausted busy retry-after=1500 details=8200ff";

async fn python_calls_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let connection = env.connect().await;
    let server = Server::new(&connection).serve(CalculatorServer::new(Pocket));
    let server = server.start().await.expect("a server");
    let queue = env.name("calculator");
    for codec in ["json", "msgpack"] {
        for (method, arguments, outcome) in [
            ("fib", r#"{"n": 30}"#, "value 832040"),
            ("fib", "[10]", "value 55"),
            ("divide", r#"{"dividend": 7, "divisor": 2}"#, "value 3"),
            // Sent as a list. MessagePack returns bytes, which the script prints as a list.
            ("reversed", r#"{"data": [1, 2, 255]}"#, "value [255, 2, 1]"),
        ] {
            let printed = run(&env, "rpc_client.py", &[&queue, codec, method, arguments]).await;
            assert_eq!(printed, [outcome], "{codec} {method}");
        }
        let by_zero = r#"{"dividend": 1, "divisor": 0}"#;
        let printed = run(&env, "rpc_client.py", &[&queue, codec, "divide", by_zero]).await;
        // A unit struct: serde's own word for it in either format.
        let body = if codec == "json" { "null" } else { "[]" };
        assert_eq!(printed, [format!("error application  {body}")], "{codec}");
        let printed = run(&env, "rpc_client.py", &[&queue, codec, "sqrt", "{}"]).await;
        assert!(printed[0].starts_with("error unimplemented"), "{printed:?}");
        let printed = run(
            &env,
            "rpc_client.py",
            &[&queue, codec, "fib", r#"{"m": 1}"#],
        )
        .await;
        assert!(
            printed[0].starts_with("error invalid_argument"),
            "{printed:?}"
        );
        let printed = run(&env, "rpc_client.py", &[&queue, codec, "busy", "{}"]).await;
        assert_eq!(printed, [BUSY], "{codec}");
    }
    server.stop().await.expect("a drained server");
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn lepus_calls_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let queue = env.name("calculator");
    let server = ready(&env, "rpc_server.py", &[&queue]).await;
    let connection = env.connect().await;
    for codec in [lepus::Codec::MsgPack, lepus::Codec::Json] {
        let calculator = CalculatorClient::builder(&connection).codec(codec).build();
        assert_eq!(calculator.fib(30).await.expect("a number"), 832_040);
        assert_eq!(calculator.divide(7, 2).await.expect("a number"), 3);
        let reversed = calculator.reversed(vec![1, 2, 255]).await;
        assert_eq!(reversed.expect("bytes"), [255, 2, 1]);
        // The peer sends its error's name, where this side expects `DivideByZero`, a unit: the
        // caller is told that the reply does not decode, not left in the dark.
        let error = calculator.divide(1, 0).await.expect_err("an error");
        assert!(error.is_decode(), "{error:?}");
        let error = calculator.busy().await.expect_err("a status");
        assert_eq!(error.status(), Some(&busy()));
    }
    stop(server).await;
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn python_sends_several_calls_at_once(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let connection = env.connect().await;
    let server = Server::new(&connection).serve(CalculatorServer::new(Pocket));
    let server = server.start().await.expect("a server");
    let queue = env.name("calculator");
    let calls = r#"[
        ["fib", {"n": 30}],
        ["tenant", {}, {"tenant": "hare", "traceparent": "00-1-2-01", "nested": {"list": [1, null]}}],
        ["tenant", {}],
        ["sqrt", {}, {"tenant": 7}],
        ["tenant", {}, {}],
        ["busy", {}]
    ]"#;
    for codec in ["json", "msgpack"] {
        let printed = run(&env, "rpc_calls.py", &[&queue, codec, calls]).await;
        let [fib, with, without, unknown, empty, refused] = &printed[..] else {
            panic!("{printed:?}");
        };
        assert_eq!(fib, "value 832040", "{codec}");
        assert_eq!(with, "value \"hare\"", "{codec}");
        assert_eq!((&without[..], &empty[..]), ("value null", "value null"));
        assert!(unknown.starts_with("error unimplemented"), "{unknown}");
        assert_eq!(refused, BUSY, "{codec}");
    }
    server.stop().await.expect("a drained server");
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn lepus_sends_several_calls_at_once(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let queue = env.name("calculator");
    let mut server = ready(&env, "rpc_server.py", &[&queue]).await;
    let connection = env.connect().await;
    let calculator = CalculatorClient::builder(&connection).coalesce(64).build();
    assert_eq!(calculator.fib(30).await.expect("a number"), 832_040);
    let (fib, with, without, refused) = tokio::join!(
        calculator.fib(10),
        calculator.tenant().header("tenant", "hare"),
        calculator.tenant(),
        calculator.busy(),
    );
    assert_eq!(fib.expect("a number"), 55);
    assert_eq!(with.expect("a tenant").as_deref(), Some("hare"));
    assert_eq!(without.expect("no tenant"), None);
    assert_eq!(refused.expect_err("a status").status(), Some(&busy()));
    let line = server.line_with("calls").await;
    assert_eq!(line, " [x] 4 calls, 1 with headers");
    stop(server).await;
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn the_tutorials_fib_in_both_directions(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let _turn = super::RPC_QUEUE.lock().await;
    let mut server = Program::spawn(example("fib_server").env("AMQP_URL", &env.uri));
    server.line_with("Awaiting RPC requests").await;
    let printed = run(&env, "tutorial/rpc_client.py", &["30"]).await;
    assert_eq!(printed, [" [x] Requesting fib(30)", " [.] Got 832040"]);
    server.signal(Signal::TERM);
    assert!(server.ended().await.status.success());

    let server = ready(&env, "tutorial/rpc_server.py", &[]).await;
    let client = Program::spawn(example("fib_client").arg("30").env("AMQP_URL", &env.uri));
    let printed = client.succeeded().await;
    assert_eq!(printed, [" [x] Requesting fib(30)", "fib(30) = 832040"]);
    stop(server).await;
    Raw::open(&env.uri).await.delete("rpc_queue").await;
}

async fn python_pushes_and_lepus_works(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let connection = env.connect().await;
    let (sender, mut resized) = mpsc::unbounded_channel();
    let pool = TaskPool::new(&connection, ImagesWorker::new(Resized(sender)));
    let pool = pool.start().await.expect("a pool");
    let queue = env.name("images");
    for (codec, id) in [("json", 7), ("msgpack", 8)] {
        let arguments = format!(r#"{{"id": {id}}}"#);
        run(&env, "producer.py", &[&queue, "resize", &arguments, codec]).await;
        assert_eq!(resized.recv().await, Some(id));
    }
    pool.stop().await.expect("a drained pool");
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn lepus_pushes_and_python_works(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let connection = env.connect().await;
    let producer = ImagesProducer::new(&connection);
    producer.resize(7).await.expect("a stored job");
    let queue = env.name("images");
    let mut worker = ready(&env, "worker.py", &[&queue]).await;
    let line = worker.line_with("resize").await;
    assert_eq!(line, r#" [x] resize {"id": 7} attempt=1"#);
    stop(worker).await;
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn python_publishes_and_lepus_hears(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let connection = env.connect().await;
    let logs = Topic::<LogLine>::new("logs");
    let mut lines = logs
        .subscribe(&connection)
        .bind("kern.*")
        .stream()
        .await
        .expect("a stream");
    let exchange = env.name("logs");
    for codec in ["json", "msgpack"] {
        let event = r#"{"text": "the disk is full"}"#;
        let arguments = [&exchange, "topic", "kern.disk", "LogLine", event, codec];
        run(&env, "publisher.py", &arguments).await;
        let line = lines.next().await.expect("an event").expect("a line");
        assert_eq!(
            (line.key(), line.event_type()),
            ("kern.disk", Some("LogLine"))
        );
        assert_eq!(line.payload().text, "the disk is full");
    }
    Raw::open(&env.uri).await.delete_exchange(&exchange).await;
}

async fn lepus_publishes_and_python_hears(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let exchange = env.name("logs");
    let mut ears = ready(&env, "subscriber.py", &[&exchange, "topic", "kern.*"]).await;
    let connection = env.connect().await;
    let logs = Topic::<LogLine>::new("logs").event_type("LogLine");
    let line = LogLine {
        text: "the disk is full".to_owned(),
    };
    logs.publisher(&connection)
        .publish("kern.disk", &line)
        .await
        .expect("a stored event");
    let heard = ears.line_with("LogLine").await;
    assert_eq!(
        heard,
        r#" [x] kern.disk LogLine {"text": "the disk is full"}"#
    );
    stop(ears).await;
    Raw::open(&env.uri).await.delete_exchange(&exchange).await;
}

async fn python_lists_the_services_of_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let queue = env.name("calculator");
    let connection = env.connect().await;
    let server = Server::new(&connection).serve(CalculatorServer::new(Pocket));
    let server = server.start().await.expect("a server");
    let discovery = Discovery::new(&connection);
    eventually("it is found", || async {
        let found = discovery.ping().expect(1).await;
        found.is_ok_and(|pongs| pongs.len() == 1)
    })
    .await;
    let exchange = env.name("lepus.control");
    let printed = run(&env, "discover.py", &[&exchange, "all", "info"]).await;
    let methods = "busy() divide(dividend, divisor) fib(n) reversed(data) tenant()";
    assert_eq!(printed, [format!("calculator service 0.0.0 {methods}")]);
    let printed = run(
        &env,
        "discover.py",
        &[&exchange, "service.calculator", "health"],
    )
    .await;
    assert_eq!(printed, ["calculator SERVING"]);
    let printed = run(&env, "discover.py", &[&exchange, "service.abacus", "info"]).await;
    assert_eq!(printed, ["nobody"]);
    server.stop().await.expect("a drained server");
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn lepus_lists_the_service_of_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let exchange = env.name("lepus.control");
    let service = ready(&env, "discoverable.py", &[&exchange, "abacus"]).await;
    let connection = env.connect().await;
    let discovery = Discovery::new(&connection);
    let found = discovery.services().expect(1).await.expect("an answer");
    assert_eq!(
        (found[0].name.as_str(), found[0].kind),
        ("abacus", ServedKind::Service)
    );
    assert_eq!(found[0].metadata["language"], "python");
    assert_eq!(found[0].endpoints[0].name, "add");
    let stats = discovery
        .stats("abacus")
        .expect(1)
        .await
        .expect("an answer");
    assert_eq!(stats[0].endpoints[0].num_requests, 7);
    let status = discovery.status("abacus").await.expect("an answer");
    assert_eq!(status, HealthStatus::Serving);
    stop(service).await;
}
