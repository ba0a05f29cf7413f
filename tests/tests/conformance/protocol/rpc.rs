//! Requests and replies, both ways.

use super::golden::Message;
use super::{connection, send};
use lepus::{CallError, Code, Codec, Connection, Running, Server, Status};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum DivideError {
    ByZero,
}

#[lepus::service(name = "calculator")]
trait Calculator {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError>;
    #[rpc(idempotent)]
    async fn fib(&self, n: u64) -> u64;
    #[rpc(oneway)]
    async fn note(&self, line: String);
    async fn panic(&self, text: String);
    async fn busy(&self) -> Result<i64, Status>;
}

struct Pocket;

impl Calculator for Pocket {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError> {
        dividend.checked_div(divisor).ok_or(DivideError::ByZero)
    }

    async fn fib(&self, n: u64) -> u64 {
        (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
    }

    async fn note(&self, _: String) {}

    async fn panic(&self, text: String) {
        // Without the hook, which would print it all.
        std::panic::resume_unwind(Box::new(text));
    }

    async fn busy(&self) -> Result<i64, Status> {
        Err(Status::new(Code::ResourceExhausted, "busy")
            .with_retry_after(Duration::from_millis(1500))
            .with_details([0x82, 0x00, 0xff]))
    }
}

fn assert_is_busy(error: &CallError<DivideError>) {
    let status = error.rpc().and_then(lepus::Error::status);
    let status = status.expect("a status");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "busy");
    assert_eq!(status.retry_after(), Some(Duration::from_millis(1500)));
    assert_eq!(status.details(), [0x82, 0x00, 0xff]);
}

/// The tutorial's server, as a contract.
#[lepus::service(name = "fibonacci", queue = "rpc_queue", codec = "json")]
trait Fibonacci {
    #[rpc(default, params = "bare")]
    async fn fib(&self, n: u64) -> u64;
}

impl Fibonacci for Pocket {
    async fn fib(&self, n: u64) -> u64 {
        Calculator::fib(self, n).await
    }
}

conformance!(
    a_call_is_the_golden_request_and_reads_the_golden_reply,
    a_typed_error_and_a_status_are_read,
    idempotent_and_one_way_calls_carry_their_key,
    a_stamped_call_tells_when_it_is_sent,
    a_golden_request_gets_the_golden_reply,
    the_tutorials_request_gets_the_golden_reply,
    a_long_text_costs_nobody_anything,
);

conformance!(one_thread several:
    calls_are_the_golden_message_and_read_the_golden_replies,
    the_golden_calls_get_the_golden_replies,
    a_message_of_another_version_is_refused,
);

/// A client, and a peer that serves its queue by hand.
struct Served {
    connection: Connection,
    raw: Raw,
    queue: String,
    namespace: String,
}

impl Served {
    async fn new(env: &Env) -> Self {
        let raw = Raw::open(&env.uri).await;
        let queue = env.name("calculator");
        raw.declare(&queue).await;
        Self {
            connection: connection(env).await,
            raw,
            queue,
            namespace: env.namespace().to_owned(),
        }
    }

    fn client(&self, codec: Codec) -> CalculatorClient {
        CalculatorClient::builder(&self.connection)
            .codec(codec)
            .build()
    }

    /// Takes a request, which has to be the golden one, and answers with another.
    async fn serve(&self, request: &str, reply: Option<&str>) {
        let taken = self.raw.next(&self.queue).await;
        let seen = Message::seen(&taken.delivery, &self.namespace);
        Message::golden(request).assert_is(&seen);
        let Some(reply) = reply else { return };
        let reply = Message::golden(reply);
        let properties = &taken.delivery.properties;
        let back = properties.reply_to().clone().expect("an address");
        let id = properties.correlation_id().clone().expect("an id");
        let properties = reply.properties().with_correlation_id(id);
        send(&self.raw, back.as_str(), &reply, properties).await;
    }

    /// Takes several calls, which have to be the golden ones, and answers them with golden replies.
    async fn serve_calls(&self, calls: &str, replies: &str) {
        let taken = self.raw.next(&self.queue).await;
        let mut seen = Message::seen(&taken.delivery, &self.namespace);
        let golden = Message::golden(calls);
        // The time left: two bytes after `cd`.
        for at in (0..golden.body.len() - 2).filter(|at| golden.body[*at] == 0xcd) {
            let left = u16::from_be_bytes([seen.body[at + 1], seen.body[at + 2]]);
            assert!((5_000..=10_000).contains(&left), "{left}");
            seen.body[at + 1..=at + 2].copy_from_slice(&golden.body[at + 1..=at + 2]);
        }
        golden.assert_is(&seen);
        let replies = Message::golden(replies);
        let to = taken.delivery.properties;
        let id = to.correlation_id().clone().expect("an id");
        let properties = replies.properties().with_correlation_id(id);
        let to = to.reply_to().clone().expect("an address");
        send(&self.raw, to.as_str(), &replies, properties).await;
    }

    async fn end(self) {
        self.connection.close().await;
        self.raw.delete(&self.queue).await;
        self.raw.close().await;
    }
}

async fn a_call_is_the_golden_request_and_reads_the_golden_reply(env: Env) {
    let served = Served::new(&env).await;
    let calculator = served.client(Codec::MsgPack);
    let pending = calculator.divide(84, 2).send().await.expect("it is sent");
    served.serve("rpc.request", Some("rpc.reply")).await;
    assert_eq!(pending.await.expect("a quotient"), 42);
    served.end().await;
}

async fn a_typed_error_and_a_status_are_read(env: Env) {
    let served = Served::new(&env).await;
    let calculator = served.client(Codec::Json);
    let pending = calculator.divide(1, 0).send().await.expect("it is sent");
    served
        .serve("rpc.request.json", Some("rpc.reply.application"))
        .await;
    assert!(matches!(
        pending.await,
        Err(CallError::Service(DivideError::ByZero))
    ));
    let pending = calculator.divide(1, 0).send().await.expect("it is sent");
    served
        .serve("rpc.request.json", Some("rpc.reply.status"))
        .await;
    let error = pending.await.expect_err("a status");
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert_eq!(error.status().expect("a status").message(), "peer");
    let pending = calculator.divide(1, 0).send().await.expect("it is sent");
    served
        .serve("rpc.request.json", Some("rpc.reply.details"))
        .await;
    assert_is_busy(&pending.await.expect_err("a status"));
    served.end().await;
}

async fn idempotent_and_one_way_calls_carry_their_key(env: Env) {
    let served = Served::new(&env).await;
    let calculator = served.client(Codec::MsgPack);
    let pending = calculator.fib(30).send().await.expect("it is sent");
    served.serve("rpc.request.idempotent", None).await;
    drop(pending);
    calculator
        .note("hi".to_owned())
        .await
        .expect("the broker has it");
    served.serve("rpc.request.oneway", None).await;
    served.end().await;
}

async fn a_stamped_call_tells_when_it_is_sent(env: Env) {
    let served = Served::new(&env).await;
    let builder = CalculatorClient::builder(&served.connection);
    let calculator = builder.stamp().build();
    let pending = calculator.divide(84, 2).send().await.expect("it is sent");
    served.serve("rpc.request.stamped", None).await;
    drop(pending);
    served.end().await;
}

/// A server, and a peer with a reply queue of its own.
struct Asking {
    connection: Connection,
    running: Running,
    raw: Raw,
    replies: String,
    namespace: String,
}

impl Asking {
    async fn new(env: &Env) -> Self {
        let connection = connection(env).await;
        let running = Server::new(&connection)
            .serve(CalculatorServer::new(Pocket))
            .serve(FibonacciServer::new(Pocket))
            .start();
        let raw = Raw::open(&env.uri).await;
        let replies = env.name("lepus.reply.0123456789ABCDEFGHIJkl");
        raw.declare_exclusive(&replies).await;
        Self {
            running: running.await.expect("it serves"),
            connection,
            raw,
            replies,
            namespace: env.namespace().to_owned(),
        }
    }

    fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    async fn ask(&self, request: &Message) -> Message {
        let properties = request
            .properties()
            .with_reply_to(self.replies.as_str().into());
        let queue = self.queue(&request.fields["routing-key"]);
        send(&self.raw, &queue, request, properties).await;
        let reply = self.raw.next(&self.replies).await;
        Message::seen(&reply.delivery, &self.namespace)
    }

    async fn end(self) {
        let queues = ["calculator", "rpc_queue"].map(|name| self.queue(name));
        self.running.stop().await.expect("it drains");
        self.connection.close().await;
        for queue in queues {
            self.raw.delete(&queue).await;
        }
        self.raw.close().await;
    }
}

async fn a_golden_request_gets_the_golden_reply(env: Env) {
    let asking = Asking::new(&env).await;
    for (request, reply) in [
        ("rpc.request", "rpc.reply"),
        ("rpc.request.json", "rpc.reply.application"),
        ("rpc.request.asking", "rpc.reply.asked"),
    ] {
        let seen = asking.ask(&Message::golden(request)).await;
        Message::golden(reply).assert_is(&seen);
        assert_eq!(seen.fields["correlation-id"], "0123456ABab7");
    }
    let mut request = Message::golden("rpc.request");
    request.fields.insert("type".into(), "busy".into());
    request.body = b"\x80".to_vec();
    let seen = asking.ask(&request).await;
    Message::golden("rpc.reply.details").assert_is(&seen);
    let mut request = Message::golden("rpc.request.json");
    request.fields.insert("type".into(), "multiply".into());
    let seen = asking.ask(&request).await;
    Message::golden("rpc.reply.status").assert_is(&seen);
    let text = &seen.fields["header rpc-message"];
    assert!(
        text.contains("`multiply`") && text.contains("divide"),
        "{text}"
    );
    asking.end().await;
}

async fn the_tutorials_request_gets_the_golden_reply(env: Env) {
    let asking = Asking::new(&env).await;
    let mut request = Message::golden("rpc.request.json");
    request.fields.retain(|name, _| name == "routing-key");
    request
        .fields
        .insert("routing-key".into(), "rpc_queue".into());
    request
        .fields
        .insert("correlation-id".into(), "any text".into());
    request.body = b"30".to_vec();
    let seen = asking.ask(&request).await;
    Message::golden("rpc.tutorial.reply").assert_is(&seen);
    assert_eq!(seen.fields["correlation-id"], "any text");
    asking.end().await;
}

async fn calls_are_the_golden_message_and_read_the_golden_replies(env: Env) {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let served = Served::new(&env).await;
    let calculator = CalculatorClient::builder(&served.connection)
        .coalesce(64)
        .build();
    let first = calculator.divide(84, 2).send().await.expect("it is sent");
    served
        .serve("rpc.request.asking", Some("rpc.reply.asked"))
        .await;
    assert_eq!(first.await.expect("a quotient"), 42);

    let (quotient, error) = tokio::join!(
        calculator.divide(84, 2).send(),
        calculator.divide(1, 0).send()
    );
    served.serve_calls("rpc.calls", "rpc.replies").await;
    assert_eq!(quotient.expect("sent").await.expect("a quotient"), 42);
    assert!(matches!(
        error.expect("sent").await,
        Err(CallError::Service(DivideError::ByZero))
    ));

    // What has been answered is not asked again.
    let last = calculator.divide(84, 2).send().await.expect("it is sent");
    served.serve("rpc.request", Some("rpc.reply")).await;
    assert_eq!(last.await.expect("a quotient"), 42);
    served.end().await;

    // The ids are those of a new reply queue.
    let served = Served::new(&env).await;
    let calculator = CalculatorClient::builder(&served.connection)
        .coalesce(64)
        .build();
    let first = calculator.divide(84, 2).send().await.expect("it is sent");
    served
        .serve("rpc.request.asking", Some("rpc.reply.asked"))
        .await;
    assert_eq!(first.await.expect("a quotient"), 42);
    let with_headers = calculator.divide(84, 2).header("tenant", "hare");
    let (quotient, error) = tokio::join!(
        with_headers.header("traceparent", TRACE).send(),
        calculator.divide(1, 0).send()
    );
    served
        .serve_calls("rpc.calls.headers", "rpc.replies.details")
        .await;
    assert_eq!(quotient.expect("sent").await.expect("a quotient"), 42);
    assert_is_busy(&error.expect("sent").await.expect_err("a status"));
    served.end().await;
}

async fn the_golden_calls_get_the_golden_replies(env: Env) {
    let asking = Asking::new(&env).await;
    for calls in ["rpc.calls", "rpc.calls.headers"] {
        let seen = asking.ask(&Message::golden(calls)).await;
        Message::golden("rpc.replies").assert_is(&seen);
    }
    let mut calls = Message::golden("rpc.calls");
    // The second of the calls.
    let divide = b"\xa6divide\xcd\x27\x10\xc0\xc4\x14";
    let mut windows = calls.body.windows(divide.len());
    let second = windows.rposition(|bytes| bytes == divide);
    calls.body.truncate(second.expect("a second call"));
    calls.body.extend(b"\xa4busy\xcd\x27\x10\xc0\xc4\x01\x80");
    let seen = asking.ask(&calls).await;
    Message::golden("rpc.replies.details").assert_is(&seen);
    asking.end().await;
}

async fn a_message_of_another_version_is_refused(env: Env) {
    let asking = Asking::new(&env).await;
    let queue = asking.queue("calculator");
    let mut later = Message::golden("rpc.calls");
    later.fields.insert("type".into(), "lepus.calls/2".into());
    // Nobody waits for an answer to these.
    for property in ["reply-to", "correlation-id"] {
        let mut silent = later.clone();
        silent.fields.remove(property);
        if property != "reply-to" {
            silent
                .fields
                .insert("reply-to".into(), asking.replies.clone());
        }
        send(&asking.raw, &queue, &silent, silent.properties()).await;
    }
    let seen = asking.ask(&later).await;
    assert_eq!(seen.fields["correlation-id"], "0123456ABabm7");
    assert_eq!(seen.fields["header rpc-status"], "S unimplemented");
    let text = &seen.fields["header rpc-message"];
    assert!(
        text.contains("`lepus.calls/2`") && !text.contains("no method"),
        "{text}"
    );
    assert_eq!(seen.fields["type"], "lepus.calls/1", "it can be sent so");
    // Tokens that this server does not know do not hide the one that it knows.
    let mut request = Message::golden("rpc.request.asking");
    let tokens = "S lepus.stream/1, lepus.calls/1,lepus.calls/2";
    request
        .fields
        .insert("header rpc-accept".into(), tokens.into());
    let seen = asking.ask(&request).await;
    Message::golden("rpc.reply.asked").assert_is(&seen);
    asking.raw.until_messages(&queue, 0).await;
    asking.end().await;
}

/// Headers have to fit into one frame, and what a text says can be the caller's to choose.
async fn a_long_text_costs_nobody_anything(env: Env) {
    let asking = Asking::new(&env).await;
    let long = "ü".repeat(100_000);
    let calculator = CalculatorClient::new(&asking.connection);
    let limit = Duration::from_secs(5);
    let error = calculator.panic(long.clone()).timeout(limit).await;
    let error = error.expect_err("a panic");
    assert_eq!(error.code(), Some(Code::Internal), "{error}");
    let error = calculator.fib(1).header("note", long.as_str()).await;
    let error = error.expect_err("no frame is that long");
    assert!(error.is_too_large(), "{error}");
    assert!(!error.may_have_executed());
    let mut request = Message::golden("rpc.request.json");
    request.body = format!(r#"{{"dividend":"{long}","divisor":1}}"#).into_bytes();
    let seen = asking.ask(&request).await;
    let text = &seen.fields["header rpc-message"];
    assert!(text.len() <= 1024 + 2, "S and 1024 bytes: {}", text.len());
    assert_eq!(seen.fields["header rpc-status"], "S invalid_argument");
    asking.end().await;
}
