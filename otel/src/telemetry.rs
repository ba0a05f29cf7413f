//! The set-up of a connection.

use std::fmt;
use std::sync::Arc;

use lepus::amqp::ConnectionBuilder;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::Tracer;

use crate::instruments::Instruments;
use crate::names::SCOPE;
use crate::observer::Observer;
use crate::peer::Peer;
use crate::sink::Sink;
use crate::trace_context::TraceContext;
use crate::tracer_spans::{StartSpan, TracerSpans};

/// Traces and metrics of connections. See the [crate] for an example.
///
/// A value may set up any number of connections, whose metrics are added up.
#[derive(Clone)]
#[must_use = "it has an effect on the connections that it is attached to"]
pub struct Telemetry {
    sinks: Option<Vec<Arc<dyn Sink>>>,
    tracer: Option<Arc<dyn StartSpan>>,
}

impl Telemetry {
    /// Traces through `tracing-opentelemetry`, and metrics through the global meter provider of `opentelemetry`, which
    /// the program has to set before.
    pub fn new() -> Self {
        Self {
            sinks: None,
            tracer: None,
        }
    }

    /// Makes the spans of messages with this tracer, and not through `tracing-opentelemetry`: with the same names,
    /// attributes and parents, at about half of the cost. The [crate](crate#two-ways-to-make-spans) tells which way
    /// to choose.
    ///
    /// ```
    /// use opentelemetry::trace::TracerProvider as _;
    /// use opentelemetry_sdk::trace::SdkTracerProvider;
    ///
    /// let tracers = SdkTracerProvider::builder().build();
    /// let telemetry = lepus_otel::Telemetry::new().tracer(tracers.tracer("shop"));
    /// # let _ = telemetry;
    /// ```
    pub fn tracer<T>(mut self, tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        self.tracer = Some(Arc::new(tracer));
        self
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
        let peer = Arc::new(Peer::default());
        let builder = builder.observe(Observer::new(sinks, Arc::clone(&peer)));
        match &self.tracer {
            None => builder.propagate_traces(TraceContext::with_peer(peer)),
            Some(tracer) => builder.propagate_traces(TracerSpans {
                tracer: Arc::clone(tracer),
                peer,
            }),
        }
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
            .field("tracer", &self.tracer.is_some())
            .finish()
    }
}
