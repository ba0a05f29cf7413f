//! The dashboard for Grafana in `docs/`: it asks for metrics that there are, and for all of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lepus_otel::names::{Instrument, METRICS};
use serde_json::Value;

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grafana-dashboard.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The texts of all queries.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("expr" | "query" | "definition", Value::String(text)) => {
                        found.push(text.clone());
                    }
                    _ => queries(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

/// The words of a query that may name a metric or a label of ours.
fn words(query: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    query.split(move |c| !is_part(c)).filter(|word| {
        ["rpc_", "messaging_", "lepus_"]
            .iter()
            .any(|it| word.starts_with(it))
    })
}

/// The series in Prometheus, with the metric that each belongs to, and the labels.
fn known() -> (BTreeMap<String, &'static str>, BTreeSet<String>) {
    let mut series = BTreeMap::new();
    let mut labels = BTreeSet::new();
    for metric in METRICS {
        let name = metric.prometheus;
        if metric.instrument == Instrument::Histogram {
            for suffix in ["bucket", "sum", "count"] {
                series.insert(format!("{name}_{suffix}"), name);
            }
        } else {
            series.insert(name.to_owned(), name);
        }
        labels.extend(
            metric
                .attributes
                .iter()
                .map(|label| label.replace('.', "_")),
        );
    }
    (series, labels)
}

#[test]
fn every_name_in_the_dashboard_exists_and_every_metric_is_shown() {
    let (series, labels) = known();
    let mut queries_found = Vec::new();
    queries(&dashboard(), &mut queries_found);
    assert!(queries_found.len() > 10, "{queries_found:?}");
    let mut shown = BTreeSet::new();
    for query in &queries_found {
        for word in words(query) {
            match series.get(word) {
                Some(metric) => {
                    shown.insert(*metric);
                }
                None => assert!(labels.contains(word), "{word} in {query}"),
            }
        }
    }
    let all: BTreeSet<_> = METRICS.iter().map(|metric| metric.prometheus).collect();
    assert_eq!(shown, all);
}
