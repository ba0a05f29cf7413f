//! The attribute macros of Lepus. Use them through the crate `lepus`, which re-exports them: the
//! generated code names items of exactly that version.
//!
//! - [`macro@service`] turns a trait into a service: calls with replies.
//! - [`macro@tasks`] turns a trait into the tasks of a work queue.
//!
//! The macros report all mistakes of a trait in one pass, each at its place in the source and with a
//! correction. The trait itself is generated all the same, so that its implementations cause no
//! further errors.

mod argument;
mod ast;
mod attr;
mod check;
mod ctxt;
mod expand;
mod names;
#[cfg(test)]
mod tests;
mod timeout;

use proc_macro::TokenStream;

/// Turns a trait into a service that clients call over RabbitMQ.
///
/// ```ignore
/// #[lepus::service(name = "calculator", version = "1.0.0")]
/// pub trait Calculator {
///     /// The n-th Fibonacci number.
///     async fn fib(&self, n: u64) -> u64;
///
///     #[rpc(timeout = "2s", idempotent)]
///     async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
///
///     #[rpc(oneway)]
///     async fn note(&self, line: String);
/// }
/// ```
///
/// # What it generates
///
/// - **The trait**, with `Send` futures and the supertraits `Send + Sync + 'static`. Implementations
///   need no attribute, and may use `async fn`. A method may have a default body. The rest of the
///   trait is unchanged: documentation, visibility, supertraits, attributes.
/// - **`CalculatorServer<S>`**, which serves an implementation: `new(service)`,
///   `from_arc(service)`, `DESCRIPTOR`; and the options of the service on its server: `concurrency(4)`,
///   `queue_options(options)`, `passive()`.
/// - **`CalculatorClient`**, with each method as a call: `fib(30).await`. It has `new(&connection)`,
///   `builder(&connection)` for options, `local(implementation)` without a broker, and `DESCRIPTOR`.
///   It is made from an untyped `Client` by `from(client)`, is cheap to clone, and keeps the
///   documentation and the `#[cfg]`s of the methods.
///
/// Both types have the trait's visibility.
///
/// # Arguments of `#[service]`
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the trait's name in kebab case: `ImageStore` is `image-store` | the service's name |
/// | `version = "1.0.0"` | none | the contract's version, `major.minor.patch` |
/// | `queue = "…"` | the name | the queue that takes the requests |
/// | `codec = "…"` | `"msgpack"` | the encoding of values: `"msgpack"`, `"json"`, `"text"` or `"bytes"` |
/// | `durable = false` | `true` | the queue is declared non-durable: a restart of the broker removes it |
/// | `quorum` | classic | the queue is a replicated quorum queue, which is always durable |
/// | `dyn` | no | the trait can be used as `dyn Calculator` (below) |
/// | `crate = path` | `::lepus` | the path of the crate `lepus`, if it was renamed: a path or a string |
/// | `client` | both halves | generates only the client |
/// | `server` | both halves | generates only the server, and no `local` |
///
/// # Arguments of `#[rpc]`, above a method
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the method's name, without `r#` | the method's name on the wire |
/// | `timeout = "2s"` | the client's | the time limit of a call: `"250ms"`, `"2s"`, `"5m"`, `"1h"`; at most 4294967295 ms, RabbitMQ's limit for an expiration |
/// | `idempotent` | no | the method may run twice: a request is run again elsewhere if its server dies, and a call is sent again if its connection is lost. A redelivered request of another method is not run again; its caller gets `aborted` at once |
/// | `oneway` | no | no reply: the call ends when the broker has the request; the method returns nothing |
/// | `at_most_once` | no | the request is acknowledged before the method runs, not after: nothing of it is left if the server dies, and its caller times out |
/// | `require_consumer` | no | a call fails at once, as *unserved*, if no server consumes the queue; without it, the request waits in the queue until its deadline |
/// | `cancel = false` | `true` | the handler runs on if its caller gives the call up, and can ask `Context::is_cancelled()`; otherwise it is dropped at its next await. Not of a method with a stream, which ends with its caller |
/// | `queue = "…"` | the service's | a separate queue for this method |
/// | `default` | no | receives the requests that name no method; at most one method of the trait |
/// | `params = "bare"` | `"named"` | the only argument is sent by itself, not in a map of arguments |
/// | `strict` | no | a request with arguments that the method does not have is answered `invalid_argument`, with their names; else they are ignored and logged |
///
/// The codecs `text` and `bytes` encode a single value: each method has bare params or no arguments.
///
/// # As `dyn Trait`
///
/// With `#[lepus::service(dyn)]`, the trait can be used as `dyn Calculator`, to choose an implementation
/// at run time, to keep several in one collection, or to mock it:
/// `CalculatorServer::from_arc(service)` takes an `Arc<dyn Calculator>`. The trait gets the attribute
/// `#[async_trait]`, which boxes the future of each method, so its implementations need it too:
///
/// ```ignore
/// #[lepus::async_trait]
/// impl Calculator for CalculatorService {
///     async fn fib(&self, n: u64) -> u64 {
///         fib(n)
///     }
/// }
/// ```
///
/// `#[mockall::automock]` goes below `#[lepus::service(dyn)]`.
///
/// # Methods
///
/// A method may also return a stream, without `async`: `fn ticks(&self) -> impl Stream<Item = T>`, or
/// `Item = Result<T, E>`. The stream may borrow `&self`, and `Send` is added to it. The client's method returns a
/// `StreamCall<T, E>`, which opens a `Streaming<T, E>`. Such a method is not `oneway`, `idempotent` or `at_most_once`,
/// and its trait not `dyn`.
///
/// A method takes a stream by an argument of the type `Incoming<T>`: `async fn import(&self, table: String, rows:
/// Incoming<Row>) -> Summary`. The client's method takes any `Stream<Item = Row>` for it, and returns an
/// `UploadCall<T, E>`, or a `StreamCall<T, E>` if the method returns a stream as well. There is one such argument at
/// most, and the type has to be written so: an alias of it is not recognized. The rules of `oneway`, `idempotent` and
/// `at_most_once` are the same.
///
/// A method is `async`, takes `&self` and any arguments that serde can encode, and returns such a
/// value, nothing, or a `Result<T, E>`: `E` is sent as well, and the
/// caller receives it as the method's own error. With `Result<T, lepus::Status>`, the method chooses the
/// status that the call fails with: the caller has it from `error.status()`, and the method has no error
/// of its own (`Call<T, Never>`). An alias of `Result` is recognized if its name ends in `Result`, as
/// `io::Result<T>` and `ShopResult<T>` do; one of another name does not compile. Borrowed data cannot be sent: write `String`, not
/// `&str`. Neither the trait nor a method can be generic, and the trait contains only methods.
///
/// Arguments are sent as a map by their names. The names are therefore part of the contract; the
/// order is not, unless a client of your own sends arrays, which are accepted too. An argument of the
/// type `Option<…>` may be missing in a map and at the end of an array, and is `None`
/// then. If its type is an alias of `Option`, it may be missing only in a map.
///
/// Wire names are unique, and have 1 to 255 bytes of UTF-8 without control characters, as AMQP
/// requires. The name of a queue does not start with `amq.`, which is reserved for the broker. A
/// method that exists several times, each under its own `#[cfg]`, counts once. No method can be
/// called `new`, `builder`, `local` or `clone`, which the client has itself; with
/// `#[rpc(name = "new")]`, a method of another name has that name on the wire.
///
/// An argument of the type `Vec<u8>` or `Option<Vec<u8>>` is encoded as bytes by MessagePack, and so is a value that
/// a method returns, also in a `Result`. The type has to be written so: in an alias, or inside another type such
/// as the field of a struct, a `Vec<u8>` is a list of numbers, as serde has it, with two bytes for each number
/// above 127. There, take `bytes::Bytes` (with its feature `serde`), `serde_bytes::ByteBuf` or
/// `#[serde(with = "serde_bytes")]`. JSON has no bytes: each is a number, of up to four bytes. All forms are
/// accepted, so that a type can be changed at any time.
///
/// # Changing a contract
///
/// Clients and servers of different versions run side by side while a new version is deployed:
///
/// | change | old server, new client | new server, old client |
/// |---|---|---|
/// | a method is added | the call fails as `unimplemented`: deploy the servers first | works |
/// | an argument `Option<…>` is added | the server ignores it and logs that, or refuses it if its method is `strict`: deploy the servers first | works, it is `None` |
/// | another argument is added | as above | the call fails as `invalid_argument` |
/// | a field is added to a value | works if the field is optional for the client (`Option`, `#[serde(default)]`) | works |
/// | a variant is added to an enum in the arguments | the call fails as `invalid_argument`: deploy the servers first | works |
/// | a variant is added to an enum in a value or an error | works | the call fails as `is_decode`: deploy the clients first |
///
/// An enum that will grow can have a variant for all others from the start, so that old peers read new variants
/// as that one. It has no content, and its attribute is `#[serde(other)]`. The content of unknown variants is
/// skipped only if the enum has a tag (`#[serde(tag = "…")]`); without one, a new variant must have none:
///
/// ```ignore
/// #[derive(Serialize, Deserialize)]
/// #[serde(tag = "kind")]
/// enum Shape {
///     Circle { radius: f64 },
///     Square { side: f64 },
///     #[serde(other)]
///     Unknown,
/// }
/// ```
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::compile(names::Kind::Service, arguments.into(), item.into()).into()
}

/// Turns a trait into the tasks of a work queue.
///
/// ```ignore
/// #[lepus::tasks]
/// pub trait Images {
///     #[task(timeout = "5m")]
///     async fn resize(&self, id: u64, width: u32) -> Result<(), ResizeError>;
/// }
/// ```
///
/// # What it generates
///
/// - **The trait**, as [`macro@service`] does.
/// - **`ImagesWorker<S>`**, which passes jobs to an implementation: `new(service)`,
///   `from_arc(service)`, `DESCRIPTOR`. `ImagesWorker::dead_letters(&connection)` are the jobs that
///   failed for good, and `dead_letters_on(&connection, &queue)` those of a queue with other
///   properties.
/// - **`ImagesTask`**, with the worker: an enum with a variant for each task, `Resize { id, width }`.
///   The payloads of the dead letters are such values. An argument that is sent `"bare"` is the content
///   of its variant, `Resize(7)`. It is `Deserialize` with the wire names of the tasks, and its `Debug`
///   shows no arguments.
/// - **`ImagesProducer`**, with each method as a push: `resize(7, 640).await` returns when the broker
///   has confirmed the job; `push_all([producer.resize(7, 640), …])` pushes many at once.
///   `new(&connection)`, `with_producer(producer)`, `DESCRIPTOR`.
///
/// # Arguments of `#[tasks]`
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the trait's name in kebab case | the name of the tasks |
/// | `version = "1.0.0"` | none | the contract's version, `major.minor.patch` |
/// | `queue = "…"` | the name | the queue that takes the jobs |
/// | `codec = "…"` | `"msgpack"` | the encoding of values: `"msgpack"`, `"json"`, `"text"` or `"bytes"` |
/// | `dyn` | no | the trait can be used as `dyn Images`, as with [`macro@service`] |
/// | `crate = path` | `::lepus` | the path of the crate `lepus`, if it was renamed: a path or a string |
/// | `producer` | both halves | generates only the producer |
/// | `worker` | both halves | generates only the worker |
///
/// # Arguments of `#[task]`, above a method
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the method's name, without `r#` | the task's name on the wire |
/// | `timeout = "5m"` | the worker's | the time limit of one run |
/// | `params = "bare"` | `"named"` | the only argument is sent by itself, not in a map of arguments |
/// | `strict` | no | a job with arguments that the task does not have is left to a worker of a later version; else they are ignored and logged |
///
/// # Methods
///
/// As with [`macro@service`], except that a task has no reply. It returns nothing, or
/// `Result<(), E>`, whose error decides whether there is another attempt. No task can be called
/// `new`, `with_producer`, `push_all` or `clone`, which the producer has itself.
///
/// A worker retries a task that its trait does not have with backoff, because a worker of a later version may
/// have it, and so it does with a `strict` task that does not have all arguments of the job; so workers and producers can be deployed in any order. A task whose arguments do not decode is
/// dead-lettered at once.
#[proc_macro_attribute]
pub fn tasks(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::compile(names::Kind::Tasks, arguments.into(), item.into()).into()
}
