//! The set-up of a connection.

use std::fmt;
use std::sync::Arc;

use lepus::amqp::ConnectionBuilder;
use opentelemetry::metrics::MeterProvider;

use crate::instruments::Instruments;
use crate::names::SCOPE;
use crate::observer::Observer;
use crate::sink::Sink;
use crate::trace_context::TraceContext;

/// Traces and metrics of connections. See the [crate] for an example.
///
/// A value may set up any number of connections, whose metrics are added up.
#[derive(Clone)]
#[must_use = "it has an effect on the connections that it is attached to"]
pub struct Telemetry {
    sinks: Option<Vec<Arc<dyn Sink>>>,
}

impl Telemetry {
    /// Traces through `tracing-opentelemetry`, and metrics through the global meter provider of `opentelemetry`, which
    /// the program has to set before.
    pub fn new() -> Self {
        Self { sinks: None }
    }

    /// Records metrics with this meter provider, and not with the global one.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
    ///
    /// let exporter = InMemoryMetricExporter::default();
    /// let meters = SdkMeterProvider::builder().with_periodic_exporter(exporter).build();
    /// let telemetry = lepus_otel::Telemetry::new().meter_provider(&meters);
    /// # let _ = telemetry;
    /// ```
    pub fn meter_provider(self, provider: &dyn MeterProvider) -> Self {
        self.with(Instruments::new(&provider.meter(SCOPE)))
    }

    /// Records metrics through the facade `metrics`, and not with OpenTelemetry, unless a
    /// [meter provider](Self::meter_provider) is set as well. The recorder has to be installed before.
    ///
    /// Histograms of `metrics-exporter-prometheus` are summaries unless buckets are set; those that suit are
    /// [`Metric::boundaries`](crate::names::Metric::boundaries). The example `prometheus` of this crate sets them.
    #[cfg(feature = "metrics")]
    pub fn facade(self) -> Self {
        self.with(crate::facade::Facade::new())
    }

    /// Records no metrics.
    pub fn without_metrics(mut self) -> Self {
        self.sinks = Some(Vec::new());
        self
    }

    fn with(mut self, sink: impl Sink) -> Self {
        self.sinks.get_or_insert_default().push(Arc::new(sink));
        self
    }

    /// Sets the hooks of a connection: the traces of its messages, the attributes of its spans, and its metrics. Hooks
    /// that were set before are replaced.
    pub fn attach(&self, builder: ConnectionBuilder) -> ConnectionBuilder {
        let sinks = self.sinks.clone().unwrap_or_else(|| {
            let meter = opentelemetry::global::meter(SCOPE);
            vec![Arc::new(Instruments::new(&meter))]
        });
        builder
            .propagate_traces(TraceContext::new())
            .observe(Observer::new(sinks))
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("sinks", &self.sinks.as_ref().map(Vec::len))
            .finish()
    }
}
