//! Metrics for Prometheus, through the facade `metrics`: the text that it reads.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use lepus::{Connection, Server};
use lepus_otel::Telemetry;
use lepus_otel::names::{Instrument, METRICS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

#[lepus::service]
trait Calculator {
    async fn double(&self, number: u32) -> u32;
}

struct CalculatorService;

impl Calculator for CalculatorService {
    async fn double(&self, number: u32) -> u32 {
        number * 2
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut recorder = PrometheusBuilder::new();
    for metric in METRICS {
        if metric.instrument == Instrument::Histogram {
            let name = Matcher::Full(metric.prometheus.to_owned());
            recorder = recorder.set_buckets_for_metric(name, &metric.boundaries())?;
        }
    }
    let prometheus = recorder.install_recorder()?;

    let broker = lepus_broker::Broker::start().await?;
    let telemetry = Telemetry::new().facade();
    let connection = telemetry
        .attach(Connection::builder(&broker.uri()))
        .open()
        .await?;
    let server = Server::new(&connection)
        .serve(CalculatorServer::new(CalculatorService))
        .start()
        .await?;
    CalculatorClient::new(&connection).double(21).await?;
    server.stop().await?;
    connection.close().await;

    // What a program answers to `GET /metrics`.
    println!("{}", prometheus.render());
    Ok(())
}
