//! Metrics through the facade `metrics`, whose exporters include one for Prometheus.

use metrics::{Label, SharedString, Unit};

use crate::names::{Instrument, METRICS, Metric};
use crate::sink::{Attribute, Sink};

/// Gives measurements to the recorder that the program has installed.
pub(crate) struct Facade(());

impl Facade {
    /// Describes the metrics to the recorder.
    pub(crate) fn new() -> Self {
        for metric in METRICS {
            let name = metric.prometheus;
            let unit = match metric.unit {
                "s" => Unit::Seconds,
                _ => Unit::Count,
            };
            match metric.instrument {
                Instrument::Counter => {
                    metrics::describe_counter!(name, unit, metric.description);
                }
                Instrument::UpDownCounter => {
                    metrics::describe_gauge!(name, unit, metric.description);
                }
                Instrument::Histogram => {
                    metrics::describe_histogram!(name, unit, metric.description);
                }
            }
        }
        Self(())
    }
}

impl Sink for Facade {
    fn record(&self, metric: &Metric, value: f64, attributes: &[Attribute<'_>]) {
        let labels: Vec<_> = attributes
            .iter()
            .map(|(name, value)| {
                let name = SharedString::from(name.replace('.', "_"));
                Label::new(name, (*value).to_owned())
            })
            .collect();
        let name = metric.prometheus;
        match metric.instrument {
            // All counters count messages or connections, one at a time.
            Instrument::Counter => metrics::counter!(name, labels).increment(1),
            Instrument::UpDownCounter => metrics::gauge!(name, labels).increment(value),
            Instrument::Histogram => metrics::histogram!(name, labels).record(value),
        }
    }
}
