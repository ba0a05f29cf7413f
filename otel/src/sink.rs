//! Sinks of metrics: OpenTelemetry, or the facade `metrics`.

use crate::names::Metric;

/// An attribute of a measurement.
pub(crate) type Attribute<'a> = (&'static str, &'a str);

/// Takes measurements. A counter and an up-down counter are added to; a histogram gets the value.
pub(crate) trait Sink: Send + Sync + 'static {
    fn record(&self, metric: &Metric, value: f64, attributes: &[Attribute<'_>]);
}
