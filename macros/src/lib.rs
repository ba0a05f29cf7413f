//! The attribute macros of Lepus. Use them through the crate `lepus`, which re-exports them: what
//! they generate names the items of exactly that version of it.
//!
//! - [`macro@service`] makes a trait a service: calls with replies.
//! - [`macro@tasks`] makes a trait the tasks of a work queue.
//!
//! The macros report every mistake they find in one pass, each where it stands and with what to
//! write instead. The trait itself is generated even then, so that its implementations raise no
//! errors of their own.

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

/// Makes a trait a service that others call over RabbitMQ.
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
/// - **The trait**, with `Send` futures and the supertraits `Send + Sync + 'static`. It is
///   implemented as it is written, with `async fn` and no attribute. A method may have a default
///   body. Everything else about the trait stays: documentation, visibility, supertraits,
///   attributes.
/// - **`CalculatorServer<S>`**, which serves an implementation: `new(service)`,
///   `from_arc(service)`, `DESCRIPTOR`.
/// - **`CalculatorClient`**, which has each method as a call: `fib(30).await`. `new(&connection)`,
///   `local(implementation)` without a broker, `with_client(client)`, `DESCRIPTOR`. It is cheap to
///   clone, and carries the documentation and the `#[cfg]`s of the methods.
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
/// | `codec = "…"` | `"msgpack"` | how values are encoded: `"msgpack"`, `"json"`, `"text"` or `"bytes"` |
/// | `durable = false` | `true` | the queue is declared non-durable: a restart of the broker removes it |
/// | `quorum` | classic | the queue is a replicated quorum queue, which is durable always |
/// | `crate = path` | `::lepus` | where the crate `lepus` is, if it was renamed: a path or a string |
/// | `client` | both halves | generates the client alone |
/// | `server` | both halves | generates the server alone, and no `local` |
///
/// # Arguments of `#[rpc]`, above a method
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the method's name, without `r#` | the method's name on the wire |
/// | `timeout = "2s"` | the client's | how long a call may take: `"250ms"`, `"2s"`, `"5m"`, `"1h"`; at most 4294967295 ms, RabbitMQ's limit for an expiration |
/// | `idempotent` | no | may run twice: a call is sent again when its connection is lost |
/// | `oneway` | no | no reply: the call is over once the broker has it; the method returns nothing |
/// | `at_most_once` | no | the request is acknowledged before the method runs, not after; one that is delivered again all the same is answered `aborted` and not run |
/// | `queue = "…"` | the service's | a queue of the method's own |
/// | `default` | no | takes the requests that name no method; one method of the trait alone |
/// | `params = "bare"` | `"named"` | the one argument is sent itself, not in a map of arguments |
///
/// The codecs `text` and `bytes` carry one value: each method is bare or takes nothing.
///
/// # Methods
///
/// A method is `async`, takes `&self` and then any arguments that serde can carry, and returns such
/// a value, nothing, or a `Result<T, E>` with both types written out: `E` travels too, and comes
/// out of the call as the method's own error. Nothing borrowed travels: `String`, not `&str`.
/// Neither the trait nor a method can be generic, and the trait holds methods alone.
///
/// Arguments travel as a map by their names. A name is part of the contract, therefore, and an
/// order is not, unless clients of your own send arrays, which are taken too. An argument of the
/// type `Option<…>` may be missing in a map, and at the end of an array: it is `None` then. Under an
/// alias of `Option` it may be missing in a map alone.
///
/// Wire names are unique, 1 to 255 bytes of UTF-8 without control characters, as AMQP has it; a
/// queue's name does not start with `amq.`, which is the broker's. A method that exists several
/// times, each under its own `#[cfg]`, counts once. A client has its own `new`, `local`,
/// `with_client` and `clone`, so that no method is called so; `#[rpc(name = "new")]` gives another
/// method that name on the wire.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::compile(names::Kind::Service, arguments.into(), item.into()).into()
}

/// Makes a trait the tasks of a work queue.
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
/// - **`ImagesWorker<S>`**, which hands jobs to an implementation: `new(service)`,
///   `from_arc(service)`, `DESCRIPTOR`.
/// - **`ImagesProducer`**, which has each method as a push: `resize(7, 640).await` returns when the
///   broker has taken the job to safety. `new(&connection)`, `with_producer(producer)`,
///   `DESCRIPTOR`.
///
/// # Arguments of `#[tasks]`
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the trait's name in kebab case | the name of the tasks |
/// | `version = "1.0.0"` | none | the contract's version, `major.minor.patch` |
/// | `queue = "…"` | the name | the queue that takes the jobs |
/// | `codec = "…"` | `"msgpack"` | how values are encoded: `"msgpack"`, `"json"`, `"text"` or `"bytes"` |
/// | `crate = path` | `::lepus` | where the crate `lepus` is, if it was renamed: a path or a string |
/// | `producer` | both halves | generates the producer alone |
/// | `worker` | both halves | generates the worker alone |
///
/// # Arguments of `#[task]`, above a method
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "…"` | the method's name, without `r#` | the task's name on the wire |
/// | `timeout = "5m"` | the worker's | how long one run may take |
/// | `params = "bare"` | `"named"` | the one argument is sent itself, not in a map of arguments |
///
/// # Methods
///
/// As with [`macro@service`], except that nobody reads what a task returns: nothing, or
/// `Result<(), E>`, whose error decides about another attempt. A producer has its own `new`,
/// `with_producer` and `clone`.
#[proc_macro_attribute]
pub fn tasks(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::compile(names::Kind::Tasks, arguments.into(), item.into()).into()
}
