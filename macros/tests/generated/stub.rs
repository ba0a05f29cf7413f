//! A stub of the items of the runtime that generated code names, without a broker: enough to run the
//! generated code and to inspect its calls.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The items that generated code names.
pub mod __rt {
    pub use super::{
        AsOctets, BoxFuture, Call, CallOf, Client, ClientBuilder, Codec, Connection, DeadLetters,
        DynService, Error, IntoReply, IntoVerdict, Layer, Layered, MethodDescriptor, OwnError,
        PlainReturn, Push, QueueOptions, Reply, Request, ReturnType, Service, ServiceDescriptor,
        ServiceOptions, TaskProducer, Tasks, Verdict, WorkQueue, octets,
    };
    pub use async_trait::async_trait;
    pub use serde;
}

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Runs a future that is never pending.
pub fn run<F: IntoFuture>(future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the stub waits for nothing"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    MsgPack,
    Json,
    Text,
    Bytes,
}

#[derive(Clone, Copy, Debug)]
pub struct ServiceDescriptor {
    pub name: &'static str,
    pub methods: &'static [MethodDescriptor],
    pub version: Option<&'static str>,
    pub queue: Option<&'static str>,
    pub codec: Codec,
    pub doc: &'static str,
    pub transient: bool,
    pub quorum: bool,
}

impl ServiceDescriptor {
    pub const fn new(name: &'static str, methods: &'static [MethodDescriptor]) -> Self {
        Self {
            name,
            methods,
            version: None,
            queue: None,
            codec: Codec::MsgPack,
            doc: "",
            transient: false,
            quorum: false,
        }
    }
    pub const fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
    }
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
    pub const fn transient(mut self) -> Self {
        self.transient = true;
        self
    }
    pub const fn quorum(mut self) -> Self {
        self.quorum = true;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodDescriptor {
    pub id: usize,
    pub name: &'static str,
    pub full_name: &'static str,
    pub arguments: &'static [&'static str],
    pub doc: &'static str,
    pub timeout_millis: Option<u64>,
    pub idempotent: bool,
    pub oneway: bool,
    pub at_most_once: bool,
    pub queue: Option<&'static str>,
    pub default: bool,
    pub bare: bool,
    pub strict: bool,
}

impl MethodDescriptor {
    pub const fn new(id: usize, name: &'static str) -> Self {
        Self {
            id,
            name,
            full_name: "",
            arguments: &[],
            doc: "",
            timeout_millis: None,
            idempotent: false,
            oneway: false,
            at_most_once: false,
            queue: None,
            default: false,
            bare: false,
            strict: false,
        }
    }
    pub const fn full_name(mut self, name: &'static str) -> Self {
        self.full_name = name;
        self
    }
    pub const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
    pub const fn timeout_millis(mut self, millis: u64) -> Self {
        self.timeout_millis = Some(millis);
        self
    }
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
    pub const fn oneway(mut self) -> Self {
        self.oneway = true;
        self
    }
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
    }
    pub const fn default_method(mut self) -> Self {
        self.default = true;
        self
    }
    pub const fn bare(mut self) -> Self {
        self.bare = true;
        self
    }
    pub const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }
}

pub trait Service: Send + Sync + 'static {
    fn descriptor(&self) -> &'static ServiceDescriptor;
    fn call(&self, request: Request) -> BoxFuture<Reply>;
    fn options(&self) -> ServiceOptions;
}

pub type DynService = Arc<dyn Service>;

impl Service for DynService {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        (**self).descriptor()
    }
    fn call(&self, request: Request) -> BoxFuture<Reply> {
        (**self).call(request)
    }
    fn options(&self) -> ServiceOptions {
        (**self).options()
    }
}

/// Stands in for the trait of `tower-layer`.
pub trait Layer<S> {
    type Service;
    fn layer(&self, inner: S) -> Self::Service;
}

/// A service with layers.
pub struct Layered(DynService);

impl Layered {
    pub fn new(service: impl Service) -> Self {
        Self(Arc::new(service))
    }
    pub fn layer<L: Layer<DynService>>(self, layer: L) -> Self
    where
        L::Service: Service,
    {
        Self(Arc::new(layer.layer(self.0)))
    }
    pub fn service(self) -> DynService {
        self.0
    }
}

/// The options of a queue, which are only passed through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions(pub &'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    pub concurrency: u16,
    pub queue: QueueOptions,
    pub passive: bool,
}

impl ServiceOptions {
    pub fn new() -> Self {
        Self {
            concurrency: 1,
            queue: QueueOptions::default(),
            passive: false,
        }
    }
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.concurrency = requests;
        self
    }
    pub fn queue_options(mut self, options: QueueOptions) -> Self {
        self.queue = options;
        self
    }
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }
}

pub trait Tasks: Send + Sync + 'static {
    fn descriptor(&self) -> &'static ServiceDescriptor;
    fn run(&self, request: Request) -> BoxFuture<Verdict>;
}

/// A request whose body is JSON.
#[derive(Debug)]
pub struct Request {
    pub method: usize,
    pub body: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Value(String),
    Application(String),
    Status(&'static str),
    Undecodable,
    Unimplemented,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Failed(String),
    Undecodable,
    Unknown,
}

impl Request {
    pub fn method(&self) -> usize {
        self.method
    }
    pub fn decode<A: DeserializeOwned>(&self) -> Result<A, Reply> {
        serde_json::from_str(&self.body).map_err(|_| Reply::Undecodable)
    }
    pub fn decode_task<A: DeserializeOwned>(&self) -> Result<A, Verdict> {
        serde_json::from_str(&self.body).map_err(|_| Verdict::Undecodable)
    }
    pub fn decode_named<A: DeserializeOwned>(&self) -> Result<A, Reply> {
        self.decode()
    }
    pub fn decode_named_task<A: DeserializeOwned>(&self) -> Result<A, Verdict> {
        self.decode_task()
    }
    /// Refuses the text that stands for arguments that are too many.
    pub fn no_arguments(&self) -> Result<(), Reply> {
        match &*self.body {
            "too many" => Err(Reply::Undecodable),
            _ => Ok(()),
        }
    }
    pub fn no_arguments_of_task(&self) -> Result<(), Verdict> {
        self.no_arguments().map_err(|_| Verdict::Undecodable)
    }
    pub fn value<T: Serialize>(&self, value: &T) -> Reply {
        Reply::Value(serde_json::to_string(value).unwrap())
    }
    pub fn result<T: Serialize, E: MethodError>(&self, result: &Result<T, E>) -> Reply {
        match result {
            Ok(value) => self.value(value),
            Err(error) => error.reply(),
        }
    }
    pub fn unimplemented(&self) -> Reply {
        Reply::Unimplemented
    }
    pub fn unknown_task(&self) -> Verdict {
        Verdict::Unknown
    }
}

/// Sent as hexadecimal digits here, by which they are told from a list of numbers.
pub mod octets {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub trait Octets: Sized {
        fn to_text(&self) -> Option<String>;
        fn of_text(text: Option<String>) -> Self;
    }

    impl Octets for Vec<u8> {
        fn to_text(&self) -> Option<String> {
            Some(self.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        fn of_text(text: Option<String>) -> Self {
            let text = text.unwrap();
            let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(byte).collect()
        }
    }

    impl Octets for Option<Vec<u8>> {
        fn to_text(&self) -> Option<String> {
            self.as_ref().and_then(Octets::to_text)
        }
        fn of_text(text: Option<String>) -> Self {
            text.map(|text| Octets::of_text(Some(text)))
        }
    }

    pub fn serialize<T: Octets, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        value.to_text().serialize(to)
    }

    pub fn deserialize<'de, T: Octets, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        Option::<String>::deserialize(from).map(T::of_text)
    }
}

pub struct AsOctets<T>(pub T);

impl<T: octets::Octets> Serialize for AsOctets<&T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        octets::serialize(self.0, to)
    }
}

impl<'de, T: octets::Octets> serde::Deserialize<'de> for AsOctets<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        octets::deserialize(from).map(AsOctets)
    }
}

/// A status, which is no method's own error.
#[derive(Debug, PartialEq, Eq)]
pub struct Status(pub &'static str);

pub trait MethodError {
    fn reply(&self) -> Reply;
}

impl<E: Serialize> MethodError for E {
    fn reply(&self) -> Reply {
        Reply::Application(serde_json::to_string(self).unwrap())
    }
}

impl MethodError for Status {
    fn reply(&self) -> Reply {
        Reply::Status(self.0)
    }
}

pub trait ReceivedError {
    type Error;
}

impl<E: DeserializeOwned> ReceivedError for E {
    type Error = E;
}

impl ReceivedError for Status {
    type Error = Never;
}

pub struct ReturnType<R>(PhantomData<R>);

impl<T, E> ReturnType<Result<T, E>> {
    pub const IS_RESULT: bool = true;
}

pub trait PlainReturn {
    const IS_RESULT: bool = false;
}

impl<R> PlainReturn for ReturnType<R> {}

pub trait Received<const IS_RESULT: bool> {
    type Value;
    type Error;
}

impl<T> Received<false> for T {
    type Value = T;
    type Error = Never;
}

impl<T, E: ReceivedError> Received<true> for Result<T, E> {
    type Value = T;
    type Error = OwnError<E>;
}

pub type CallOf<R, const IS_RESULT: bool> =
    Call<<R as Received<IS_RESULT>>::Value, <R as Received<IS_RESULT>>::Error>;

pub trait IntoReply<const IS_RESULT: bool> {
    fn reply(&self, request: &Request) -> Reply;
}

impl<T: Serialize> IntoReply<false> for T {
    fn reply(&self, request: &Request) -> Reply {
        request.value(self)
    }
}

impl<T: Serialize, E: MethodError> IntoReply<true> for Result<T, E> {
    fn reply(&self, request: &Request) -> Reply {
        request.result(self)
    }
}

pub type OwnError<E> = <E as ReceivedError>::Error;

pub trait IntoVerdict {
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::Done
    }
}

impl<E: fmt::Display> IntoVerdict for Result<(), E> {
    fn into_verdict(self) -> Verdict {
        self.map_or_else(
            |error| Verdict::Failed(error.to_string()),
            |()| Verdict::Done,
        )
    }
}

/// Stores the pushed jobs.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub sent: Arc<Mutex<Vec<(&'static str, String)>>>,
}

#[derive(Clone)]
pub struct Client {
    connection: Connection,
    service: Option<Arc<dyn Service>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(connection: &Connection, _: &'static ServiceDescriptor) -> Self {
        Self {
            connection: connection.clone(),
            service: None,
        }
    }
    pub fn local(service: impl Service) -> Self {
        Self {
            connection: Connection::default(),
            service: Some(Arc::new(service)),
        }
    }
    pub fn call<A: Serialize, T: DeserializeOwned, E: DeserializeOwned>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
    ) -> Call<T, E> {
        let body = serde_json::to_string(arguments).unwrap();
        self.connection
            .sent
            .lock()
            .unwrap()
            .push((method.name, body.clone()));
        let reply = self.service.as_ref().map(|service| {
            service.call(Request {
                method: method.id,
                body,
            })
        });
        Call {
            reply,
            types: PhantomData,
        }
    }
}

pub struct ClientBuilder<C> {
    client: Client,
    typed: PhantomData<fn() -> C>,
}

impl<C: From<Client>> ClientBuilder<C> {
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self {
            client: Client::new(connection, descriptor),
            typed: PhantomData,
        }
    }
    pub fn build(self) -> C {
        C::from(self.client)
    }
}

/// The error type of a method without an error.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Never {}

#[must_use]
pub struct Call<T, E = Never> {
    reply: Option<BoxFuture<Reply>>,
    types: PhantomData<fn() -> Result<T, E>>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum CallError<E> {
    Service(E),
    Rpc(Option<Reply>),
}

impl<T: DeserializeOwned, E: DeserializeOwned> IntoFuture for Call<T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Some(reply) = self.reply else {
                return Err(CallError::Rpc(None));
            };
            match reply.await {
                Reply::Value(value) => Ok(serde_json::from_str(&value).unwrap()),
                Reply::Application(error) => {
                    Err(CallError::Service(serde_json::from_str(&error).unwrap()))
                }
                other => Err(CallError::Rpc(Some(other))),
            }
        })
    }
}

#[derive(Clone, Debug)]
pub struct TaskProducer {
    connection: Connection,
}

impl TaskProducer {
    pub fn new(connection: &Connection, _: &'static ServiceDescriptor) -> Self {
        Self {
            connection: connection.clone(),
        }
    }
    pub fn push<A: Serialize>(&self, method: &'static MethodDescriptor, arguments: &A) -> Push {
        let body = serde_json::to_string(arguments).unwrap();
        self.connection
            .sent
            .lock()
            .unwrap()
            .push((method.name, body));
        Push
    }
    pub async fn push_all(&self, pushes: impl IntoIterator<Item = Push>) -> Vec<Result<(), Error>> {
        pushes.into_iter().map(run).collect()
    }
}

/// The dead letters of a queue.
#[derive(Debug)]
pub struct DeadLetters<T> {
    pub tasks: &'static str,
    pub queue: Option<&'static str>,
    payload: PhantomData<T>,
}

impl<T> DeadLetters<T> {
    pub fn of_tasks(_: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self {
            tasks: descriptor.name,
            queue: None,
            payload: PhantomData,
        }
    }
    pub fn of_tasks_on<Q>(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        queue: &WorkQueue<Q>,
    ) -> Self {
        Self {
            queue: Some(queue.name),
            ..Self::of_tasks(connection, descriptor)
        }
    }
    /// Decodes a job as one of these.
    pub fn read(&self, job: &str) -> Result<T, String>
    where
        T: DeserializeOwned,
    {
        serde_json::from_str(job).map_err(|error| error.to_string())
    }
}

pub struct WorkQueue<T> {
    pub name: &'static str,
    pub payload: PhantomData<T>,
}

/// The error of a push.
#[derive(Debug, PartialEq, Eq)]
pub struct Error;

#[must_use]
pub struct Push;

impl IntoFuture for Push {
    type Output = Result<(), Error>;
    type IntoFuture = std::future::Ready<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        std::future::ready(Ok(()))
    }
}
