//! A service with a method for everything that a test of calls needs, served and called over
//! connections of their own.

use crate::env::Env;
use crate::eventually::eventually;
use crate::gate::Gate;
use crate::proxy::Proxy;
use crate::raw::Raw;
use lepus::middleware::Layered;
use lepus::{CallError, Connection, Context, Error, Running, Server};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The error of a call that fails on its way: not its method's own.
pub async fn transport_error<T: fmt::Debug, E: fmt::Debug>(
    call: impl IntoFuture<Output = Result<T, CallError<E>>>,
) -> Error {
    match call.await.expect_err("the call fails") {
        CallError::Rpc(error) => error,
        own => panic!("the method's own error: {own:?}"),
    }
}

/// The service under test. What every implementation of it does alike stands here.
#[lepus::service(name = "probe")]
pub trait Probe {
    /// The value that was sent.
    async fn echo(&self, text: String) -> String {
        text
    }
    /// A method with an error of its own.
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend
            .checked_div(divisor)
            .ok_or(DivideByZero { dividend })
    }
    /// Waits at the gate.
    async fn hold(&self, id: u32) -> u32;
    /// The same, and may run twice.
    #[rpc(idempotent)]
    async fn hold_idempotent(&self, id: u32) -> u32;
    /// The same, acknowledged before.
    #[rpc(at_most_once)]
    async fn hold_once(&self, id: u32) -> u32;
    /// Waits at the gate; nobody waits for it.
    #[rpc(oneway)]
    async fn note(&self, id: u32);
    /// Panics.
    async fn panic(&self, text: String) {
        panic!("{text}");
    }
    /// So many bytes.
    async fn large(&self, bytes: usize) -> String {
        "x".repeat(bytes)
    }
    /// The facts that the handler knows.
    async fn facts(&self) -> Facts {
        Facts::current()
    }
}

/// A method's own error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivideByZero {
    pub dividend: i64,
}

impl fmt::Display for DivideByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} divided by zero", self.dividend)
    }
}

impl std::error::Error for DivideByZero {}

/// A handler's context, to be looked at from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub service: String,
    pub method: String,
    pub millis_left: Option<u64>,
    pub headers: BTreeMap<String, String>,
    pub trace: BTreeMap<String, String>,
    pub caller: Option<String>,
    pub message_id: Option<String>,
    pub redelivered: bool,
    pub attempt: u32,
}

impl Facts {
    pub fn current() -> Facts {
        let context = Context::current();
        let texts = |table: &lepus::amqp::Table| {
            let texts = table.iter();
            texts
                .map(|(name, value)| (name.clone(), value.to_string()))
                .collect()
        };
        Facts {
            service: context.service().to_owned(),
            method: context.method().to_owned(),
            millis_left: context
                .time_left()
                .map(|left| left.as_millis().try_into().expect("not that long")),
            headers: texts(context.headers()),
            trace: texts(context.trace()),
            caller: context.app_id().map(str::to_owned),
            message_id: context.message_id().map(str::to_owned),
            redelivered: context.redelivered(),
            attempt: context.attempt(),
        }
    }
}

/// The implementation: what runs is on record.
#[derive(Debug, Default)]
pub struct Subject {
    pub gate: Gate,
    runs: Mutex<Vec<Run>>,
}

/// One run of a handler that waits at the gate.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: u32,
    pub facts: Facts,
}

impl Subject {
    /// The runs so far, in order.
    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().expect("no panic under a lock").clone()
    }

    /// Their numbers.
    pub fn ids(&self) -> Vec<u32> {
        self.runs().iter().map(|run| run.id).collect()
    }

    async fn wait(&self, id: u32) -> u32 {
        let facts = Facts::current();
        let run = Run { id, facts };
        self.runs.lock().expect("no panic under a lock").push(run);
        self.gate.pass().await;
        id
    }
}

impl Probe for Subject {
    async fn hold(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn hold_idempotent(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn hold_once(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn note(&self, id: u32) {
        self.wait(id).await;
    }
}

/// A server and a client, as two processes would be.
#[derive(Debug)]
pub struct RpcFixture {
    pub serving: Connection,
    pub calling: Connection,
    pub server: Running,
    pub subject: Arc<Subject>,
    pub probe: ProbeClient,
    /// The service's queue, as the broker knows it.
    pub queue: String,
}

impl RpcFixture {
    /// With the default concurrency of 1, where one request that is not settled stops all.
    pub async fn start(env: &Env) -> RpcFixture {
        RpcFixture::over(env, env.connect().await, env.connect().await).await
    }

    pub async fn over(env: &Env, serving: Connection, calling: Connection) -> RpcFixture {
        let subject = Arc::new(Subject::default());
        let server = serve(&serving, &subject).start().await;
        RpcFixture {
            server: server.unwrap_or_else(|error| panic!("{error}")),
            probe: ProbeClient::new(&calling),
            queue: env.name("probe"),
            serving,
            calling,
            subject,
        }
    }

    /// The server is connected by the proxy, the client is not.
    pub async fn served_by_proxy(env: &Env) -> (Proxy, RpcFixture) {
        let (proxy, serving) = env.proxied().await;
        let fixture = RpcFixture::over(env, serving, env.connect().await).await;
        (proxy, fixture)
    }

    /// The client is connected by the proxy, the server is not.
    pub async fn called_by_proxy(env: &Env) -> (Proxy, RpcFixture) {
        let (proxy, calling) = env.proxied().await;
        let fixture = RpcFixture::over(env, env.connect().await, calling).await;
        (proxy, fixture)
    }

    /// The same worker still answers, and has nothing on its conscience.
    pub async fn is_well(&self, env: &Env) {
        let echo = self.probe.echo("still there".into()).await;
        assert_eq!(echo.as_deref().ok(), Some("still there"), "{echo:?}");
        is_settled(env, &self.queue).await;
    }
}

/// A server of the subject.
pub fn serve(connection: &Connection, subject: &Arc<Subject>) -> Server {
    Server::new(connection).serve(ProbeServer::from_arc(Arc::clone(subject)))
}

/// A server of the subject that handles this many requests at once.
pub fn serve_concurrently(
    connection: &Connection,
    subject: &Arc<Subject>,
    requests: u16,
) -> Server {
    let service = ProbeServer::from_arc(Arc::clone(subject));
    Server::new(connection).serve(service.concurrency(requests))
}

/// A running server of the probe with layers, its subject, and a connection to call it over.
pub async fn serve_layered(
    env: &Env,
    make: impl FnOnce(ProbeServer<Subject>) -> Layered,
) -> (Running, Arc<Subject>, Connection) {
    env.name("probe");
    let subject = Arc::new(Subject::default());
    let service = ProbeServer::from_arc(Arc::clone(&subject)).concurrency(8);
    let serving = Server::new(&env.connect().await).serve(make(service));
    let running = serving.start().await.expect("a server");
    (running, subject, env.connect().await)
}

/// Nothing waits in the queue; where the broker tells, nothing is unsettled either.
pub async fn is_settled(env: &Env, queue: &str) {
    match env.embedded() {
        Some(broker) => {
            eventually(&format!("{queue} settled"), || async {
                let queue = broker.queue(queue).expect("the queue");
                if queue.ready + queue.unacked == 0 {
                    Ok(())
                } else {
                    Err(format!("{queue:?}"))
                }
            })
            .await;
        }
        None => {
            let raw = Raw::open(&env.uri).await;
            raw.until_messages(queue, 0).await;
            raw.close().await;
        }
    }
}
