//! The report of a run: tables on the way, and two files in the end.

mod plot;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Machine;
use crate::measure::Figure;
pub use table::Table;

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub seconds: f64,
    pub left_out: Vec<String>,
    pub rows: Vec<Row>,
}

/// One entry of one comparison.
#[derive(Serialize)]
pub struct Row {
    pub group: String,
    pub comparison: String,
    pub entry: String,
    /// Those that gave figures.
    pub rounds: usize,
    pub figures: BTreeMap<Figure, Spread>,
    /// To the comparison's first entry, round by round.
    pub ratios: BTreeMap<Figure, Spread>,
}

/// A figure over the rounds.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}

/// Writes the figures and their plot; gives the paths.
pub fn write(report: &Report, folder: &Path) -> Result<[PathBuf; 2], String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    let files = [("json", json), ("svg", plot::draw(&report.rows))];
    let mut paths = [PathBuf::new(), PathBuf::new()];
    for ((ending, text), path) in files.into_iter().zip(&mut paths) {
        *path = folder.join(format!("{}.{ending}", report.machine.time));
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(paths)
}
