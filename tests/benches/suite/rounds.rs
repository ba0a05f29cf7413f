//! Rounds of a comparison, one entry after the other, and what comes out of them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::comparison::{self, Comparison};
use crate::machine::Machine;
use crate::measure::{Figure, Sample};
use crate::options::Options;
use crate::report::{self, Report, Row, Spread, Table};
use crate::stage::{self, RabbitMq};

pub async fn run(options: &Options) -> Result<(), String> {
    let rabbit = RabbitMq::find()?;
    let comparisons = comparison::all(options);
    let left_out = comparison::left_out(&comparisons);
    let mut machine = Machine::look(rabbit.version.as_deref());
    if rabbit.pid.is_none() {
        eprintln!("RabbitMQ is no process of this machine that can be seen: its CPU is left out");
    }
    for name in &left_out {
        eprintln!("LEFT OUT: {name}");
    }
    let entries: usize = comparisons.iter().map(|all| all.entries.len()).sum();
    let mut progress = Progress {
        runs: entries * options.rounds,
        done: 0,
    };
    let mut rows = Vec::new();
    for comparison in &comparisons {
        let mine = alternate(&rabbit, comparison, options, &mut progress).await;
        println!("{}", Table(&mine));
        rows.extend(mine);
    }
    machine.finish();
    let report = Report {
        machine,
        rounds: options.rounds,
        seconds: options.time.as_secs_f64(),
        left_out,
        rows,
    };
    println!("{}", report.machine);
    for name in &report.left_out {
        println!("LEFT OUT: {name}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    for path in report::write(&report, &folder)? {
        println!("{}", path.display());
    }
    let failed = report.rows.iter().any(|row| row.rounds < options.rounds);
    if failed {
        return Err("some entries gave no figure in every round".into());
    }
    Ok(())
}

struct Progress {
    runs: usize,
    done: usize,
}

async fn alternate(
    rabbit: &RabbitMq,
    comparison: &Comparison,
    options: &Options,
    progress: &mut Progress,
) -> Vec<Row> {
    let mut samples: Vec<Vec<Option<Sample>>> = vec![Vec::new(); comparison.entries.len()];
    for round in 1..=options.rounds {
        for (entry, samples) in comparison.entries.iter().zip(&mut samples) {
            let measured = stage::measure(rabbit, entry, options.time).await;
            progress.done += 1;
            let outcome = match &measured {
                Ok(sample) => sample.get(&Figure::Rate).map(|rate| format!("{rate:.0}/s")),
                Err(error) => Some(format!("NO FIGURE: {error}")),
            };
            eprintln!(
                "[{}/{}] {}: {}, round {round}: {}: {}",
                progress.done,
                progress.runs,
                comparison.group.name(),
                comparison.title,
                entry.label,
                outcome.as_deref().unwrap_or("done")
            );
            samples.push(measured.ok());
        }
    }
    let base = samples.first().cloned().unwrap_or_default();
    let entries = comparison.entries.iter().zip(samples);
    let rows = entries.map(|(entry, samples)| Row {
        group: comparison.group.name().into(),
        comparison: comparison.title.clone(),
        entry: entry.label.clone(),
        rounds: samples.iter().flatten().count(),
        figures: spreads(samples.iter().flatten().cloned()),
        ratios: spreads(samples.iter().zip(&base).filter_map(ratios)),
    });
    rows.collect()
}

/// Of one round's figures to those of the first entry in the same round.
fn ratios((sample, base): (&Option<Sample>, &Option<Sample>)) -> Option<Sample> {
    let base = base.as_ref()?;
    let ratios = sample.as_ref()?.iter().filter_map(|(figure, value)| {
        let base = base.get(figure).filter(|base| **base > 0.0)?;
        Some((*figure, value / base))
    });
    Some(ratios.collect())
}

fn spreads(samples: impl Iterator<Item = Sample>) -> BTreeMap<Figure, Spread> {
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for (figure, value) in samples.flatten() {
        values.entry(figure).or_default().push(value);
    }
    let spread = |values| Spread::of(values);
    values
        .into_iter()
        .filter_map(|(figure, values)| Some((figure, spread(values)?)))
        .collect()
}
