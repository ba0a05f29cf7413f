//! Metrics of OpenTelemetry.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::names::{Instrument, METRICS, Metric};
use crate::sink::{Attribute, Sink};

/// The instruments of a meter, in the order of [`METRICS`].
pub(crate) struct Instruments(Vec<MeterInstrument>);

enum MeterInstrument {
    Counter(Counter<f64>),
    UpDownCounter(UpDownCounter<f64>),
    Histogram(Histogram<f64>),
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        let make = |metric: &Metric| match metric.instrument {
            Instrument::Counter => MeterInstrument::Counter(
                meter
                    .f64_counter(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.description)
                    .build(),
            ),
            Instrument::UpDownCounter => MeterInstrument::UpDownCounter(
                meter
                    .f64_up_down_counter(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.description)
                    .build(),
            ),
            Instrument::Histogram => MeterInstrument::Histogram(
                meter
                    .f64_histogram(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.description)
                    .with_boundaries(metric.boundaries())
                    .build(),
            ),
        };
        Self(METRICS.iter().map(make).collect())
    }
}

impl Sink for Instruments {
    fn record(&self, metric: &Metric, value: f64, attributes: &[Attribute<'_>]) {
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(name, value)| KeyValue::new(*name, (*value).to_owned()))
            .collect();
        match self.0.get(metric.index) {
            Some(MeterInstrument::Counter(counter)) => counter.add(value, &attributes),
            Some(MeterInstrument::UpDownCounter(counter)) => counter.add(value, &attributes),
            Some(MeterInstrument::Histogram(histogram)) => histogram.record(value, &attributes),
            None => {}
        }
    }
}
