//! `bench rpc`: many calls at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use lepus::amqp::QueueOptions;
use lepus::rpc::DynamicClient;
use lepus::{Codec, Server};

use super::{Bed, Measured, perform, show};
use crate::app::App;
use crate::commands::call::arguments::Arguments;
use crate::commands::call::target::Target;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::json_text;

/// The time after which the broker deletes the queue of the bench's service, if nobody uses it.
const UNUSED_QUEUE: Duration = Duration::from_secs(60);

/// Measures calls: of a method, or of a service of its own that returns what it gets
#[derive(Args)]
#[command(after_help = "Examples:
  lepus bench rpc
  lepus bench rpc -c 1 --calls 1000 --size 1024
  lepus bench rpc --coalesce 64 -c 256 --calls 200000
  lepus bench rpc calculator.divide dividend=84 divisor=2")]
pub(super) struct RpcBench {
    /// The service and the method, with a dot between them
    #[arg(value_name = "SERVICE.METHOD")]
    target: Option<String>,
    /// JSON, @FILE, or name=value pairs
    #[arg(value_name = "ARGUMENTS", allow_negative_numbers = true)]
    arguments: Vec<String>,
    /// The number of calls
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// The calls at a time
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// The bytes of the text that the service of its own gets and returns
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 16,
        conflicts_with = "target"
    )]
    size: u32,
    /// Sends up to so many calls that are made at the same time as one message
    #[arg(long, value_name = "N", default_value_t = 0)]
    coalesce: u16,
    /// The queue of the service, if it has another name
    #[arg(long, value_name = "QUEUE", requires = "target")]
    queue: Option<String>,
}

#[lepus::service(name = "echo")]
trait Echo {
    /// The text itself.
    async fn echo(&self, text: String) -> String;
}

struct EchoService;

impl Echo for EchoService {
    async fn echo(&self, text: String) -> String {
        text
    }
}

/// A call of the bench, which is made many times.
#[derive(Clone)]
struct BenchCall {
    client: DynamicClient,
    method: Arc<str>,
    body: Bytes,
}

impl RpcBench {
    pub(super) async fn run(&self, app: &App, bed: &Bed) -> Result<Exit, Failure> {
        let Some(target) = &self.target else {
            return self.own(app, bed).await;
        };
        let Arguments::One(json) = Arguments::parse(&self.arguments)? else {
            return Err(Failure::usage(
                "a bench makes the same call all the time, so it reads no stdin",
            ));
        };
        let mut target = Target::parse(target, self.queue.as_deref(), Codec::Json)?;
        let connection = app.connect().await?;
        target.look_up(connection, app.timeout()).await;
        if target
            .details()
            .is_some_and(|it| it.stream.is_some() || it.oneway)
        {
            return Err(Failure::usage(format!(
                "{target} has no single reply, which a bench measures the time of"
            )));
        }
        let builder = target.builder(connection)?;
        let call = BenchCall {
            client: builder.coalesce(self.coalesce.into()).build(),
            method: target.method().into(),
            body: target.body(&json.into()),
        };
        self.measure(app, call, &target.to_string()).await
    }

    /// Serves and calls the service of its own, over two connections.
    async fn own(&self, app: &App, bed: &Bed) -> Result<Exit, Failure> {
        // The queue of a bench that was killed is deleted by itself. A transient queue would not be, before a restart of
        // the broker, and RabbitMQ 4.3 may be configured to refuse one that is not exclusive.
        let options = QueueOptions::new().expires(UNUSED_QUEUE);
        let echo = EchoServer::new(EchoService).concurrency(self.concurrency);
        let echo = echo.queue_options(options);
        let server = Server::new(&bed.connection).serve(echo).start().await?;
        let connection = bed.other(app).await?;
        let text = json_text::string(&"x".repeat(self.size as usize));
        let builder = DynamicClient::builder(&connection, "echo", "echo")?;
        let call = BenchCall {
            client: builder
                .codec(Codec::Json)
                .coalesce(self.coalesce.into())
                .build(),
            method: "echo".into(),
            body: format!("{{\"text\":{text}}}").into(),
        };
        let result = self.measure(app, call, "calls").await;
        connection.close().await;
        server.stop().await?;
        result
    }

    async fn measure(&self, app: &App, call: BenchCall, what: &str) -> Result<Exit, Failure> {
        // The first call opens the reply queue, and shows whether there is a service at all.
        let first = call.client.call(&call.method, call.body.clone());
        first.timeout(app.timeout()).await?;
        let limit = app.timeout();
        let operation = move || {
            let made = call.client.call(&call.method, call.body.clone());
            async move { made.timeout(limit).await.map(drop) }
        };
        let calls = (self.calls, "calls");
        let (all, elapsed) = perform(calls, self.concurrency, operation).await;
        let what = format!("{what}, {} at a time,", self.concurrency);
        let measured = Measured::new(what, all, elapsed);
        show(app, &measured)?;
        Ok(match measured.failures.is_empty() {
            true => Exit::Ok,
            false => Exit::Status(lepus::Code::Unknown),
        })
    }
}
