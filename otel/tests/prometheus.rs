//! Metrics through the facade, as Prometheus reads them.

use lepus::{Connection, Job, Server, WorkQueue};
use lepus_broker::Broker;
use lepus_otel::Telemetry;
use lepus_otel::names::{Instrument, METRICS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::sync::mpsc;

#[lepus::service]
trait Calculator {
    async fn divide(&self, dividend: u32, divisor: u32) -> Result<u32, String>;
}

struct CalculatorService;

impl Calculator for CalculatorService {
    async fn divide(&self, dividend: u32, divisor: u32) -> Result<u32, String> {
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or_else(|| "divided by zero".to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_metrics_by_their_names() {
    let mut recorder = PrometheusBuilder::new();
    for metric in METRICS {
        if metric.instrument == Instrument::Histogram {
            let name = Matcher::Full(metric.prometheus.to_owned());
            let boundaries = metric.boundaries();
            recorder = recorder.set_buckets_for_metric(name, &boundaries).unwrap();
        }
    }
    let prometheus = recorder.install_recorder().unwrap();
    let broker = Broker::start().await.unwrap();
    let telemetry = Telemetry::new().facade();
    let builder = telemetry.attach(Connection::builder(&broker.uri()));
    let connection = builder.open().await.unwrap();
    let server = Server::new(&connection).serve(CalculatorServer::new(CalculatorService));
    let server = server.start().await.unwrap();
    let calculator = CalculatorClient::new(&connection);
    assert_eq!(calculator.divide(84, 2).await.unwrap(), 42);
    assert!(calculator.divide(1, 0).await.is_err());

    let numbers = WorkQueue::<u32>::new("numbers");
    let (told, mut heard) = mpsc::unbounded_channel();
    let worker = numbers.worker(&connection).start(move |job: Job<u32>| {
        told.send(job.into_payload()).unwrap();
        async {}
    });
    let worker = worker.await.unwrap();
    numbers.producer(&connection).push(&7).await.unwrap();
    assert_eq!(heard.recv().await, Some(7));
    server.stop().await.unwrap();
    worker.stop().await.unwrap();

    let text = prometheus.render();
    let has = |series: &str, labels: &[&str], value: &str| {
        let found = text.lines().any(|line| {
            line.starts_with(&format!("{series}{{"))
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with(&format!("}} {value}"))
        });
        assert!(found, "{series} {labels:?} {value}: {text}");
    };
    let method = r#"rpc_method="calculator/divide""#;
    for series in [
        "rpc_client_call_duration_seconds",
        "rpc_server_call_duration_seconds",
    ] {
        let ok = [method, r#"rpc_response_status_code="OK""#];
        has(&format!("{series}_count"), &ok, "1");
        let own = [method, r#"error_type="APPLICATION""#];
        has(&format!("{series}_count"), &own, "1");
        let all = [method, r#"le="+Inf""#];
        has(&format!("{series}_bucket"), &all, "1");
    }
    let queue = [r#"messaging_destination_name="numbers""#];
    has("messaging_client_sent_messages_total", &queue, "1");
    has("messaging_client_consumed_messages_total", &queue, "1");
    let handler = [r#"lepus_handler="numbers""#, r#"lepus_kind="job""#];
    has("lepus_handlers_in_flight", &handler, "0");
    let help = "# HELP lepus_queue_wait_seconds The time from the sending";
    assert!(text.contains(help), "{text}");
}
