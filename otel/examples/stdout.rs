//! A trace over three hops, printed: a call, the call and the job of its handler, and the worker of the job.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use lepus::{Connection, Context, Job, Server, WorkQueue};
use lepus_otel::Telemetry;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

#[lepus::service]
trait Shop {
    async fn order(&self, item: String) -> u32;
}

#[lepus::service]
trait Prices {
    async fn price(&self, item: String) -> u32;
}

struct ShopService {
    prices: PricesClient,
    mails: lepus::jobs::Producer<String>,
}

impl Shop for ShopService {
    async fn order(&self, item: String) -> u32 {
        println!("an order in trace {:?}", Context::current().trace());
        let price = self.prices.price(item.clone()).await.unwrap_or_default();
        if let Err(error) = self.mails.push(&item).await {
            println!("no mail: {error}");
        }
        price
    }
}

struct PricesService;

impl Prices for PricesService {
    async fn price(&self, item: String) -> u32 {
        u32::try_from(item.len()).unwrap_or(u32::MAX)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tracers = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let meters = SdkMeterProvider::builder()
        .with_periodic_exporter(opentelemetry_stdout::MetricExporter::default())
        .build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("shop"))
        .with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(spans).init();

    let broker = lepus_broker::Broker::start().await?;
    let telemetry = Telemetry::new().meter_provider(&meters);
    let connection = telemetry
        .attach(Connection::builder(&broker.uri()))
        .open()
        .await?;

    let mails = WorkQueue::<String>::new("mails");
    let (sent, mut is_sent) = mpsc::unbounded_channel();
    let worker = mails.worker(&connection).start(move |job: Job<String>| {
        let sent = sent.clone();
        async move {
            // The receiver is there until the end of the program.
            let _ = sent.send(job.into_payload());
        }
    });
    let worker = worker.await?;
    let shop = ShopServer::new(ShopService {
        prices: PricesClient::new(&connection),
        mails: mails.producer(&connection),
    });
    let server = Server::new(&connection)
        .serve(shop)
        .serve(PricesServer::new(PricesService))
        .start()
        .await?;

    let price = ShopClient::new(&connection)
        .order("carrot".to_owned())
        .await?;
    println!("ordered for {price}");
    if let Some(item) = is_sent.recv().await {
        println!("a mail about {item} is sent");
    }

    server.stop().await?;
    worker.stop().await?;
    connection.close().await;
    tracers.shutdown()?;
    meters.shutdown()?;
    Ok(())
}
