//! A comparison for the terminal.

use std::fmt;

use super::Row;
use crate::measure::Figure;

pub struct Table<'a>(pub &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        writeln!(f, "\n{}: {}", first.group, first.comparison)?;
        writeln!(
            f,
            "{:<20}{:>9}{:>18}{:>7}{:>10}{:>10}{:>9}{:>9}{:>9}{:>7}{:>7}{:>8}{:>8}",
            "",
            "a second",
            "min–max",
            "ratio",
            "p50 µs",
            "p99 µs",
            "client",
            "server",
            "broker",
            "ratio",
            "ratio",
            "client",
            "server"
        )?;
        writeln!(
            f,
            "{:<74}{:^27}{:>7}{:>7}{:^16}",
            "", "CPU µs each", "client", "server", "peak MiB"
        )?;
        for row in self.0 {
            line(f, row)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    let rate = row.figures.get(&Figure::Rate);
    write!(
        f,
        "{:<20}{:>9}{:>18}{:>7}",
        row.entry,
        cell(rate.map(|rate| rate.median), 0),
        rate.map_or("–".into(), |rate| format!(
            "{:.0}–{:.0}",
            rate.min, rate.max
        )),
        cell(row.ratio(Figure::Rate), 2),
    )?;
    for (figure, width) in [(Figure::P50Micros, 10), (Figure::P99Micros, 10)] {
        let median = row.median(figure);
        let digits = usize::from(median.is_some_and(|median| median < 10.0)) * 2;
        write!(f, "{:>width$}", cell(median, digits))?;
    }
    for figure in [
        Figure::ClientCpuMicros,
        Figure::ServerCpuMicros,
        Figure::BrokerCpuMicros,
    ] {
        let median = row.median(figure);
        let digits = 1 + usize::from(median.is_some_and(|median| median < 10.0));
        write!(f, "{:>9}", cell(median, digits))?;
    }
    for figure in [Figure::ClientCpuMicros, Figure::ServerCpuMicros] {
        write!(f, "{:>7}", cell(row.ratio(figure), 2))?;
    }
    for figure in [Figure::ClientBytes, Figure::ServerBytes] {
        let mebibytes = row.median(figure).map(|bytes| bytes / f64::from(1 << 20));
        write!(f, "{:>8}", cell(mebibytes, 1))?;
    }
    if let Some(bytes) = row.median(Figure::BytesInFlight) {
        write!(f, "  {bytes:.0} bytes each")?;
    }
    if let Some(bytes) = row.median(Figure::ServerBytesInFlight) {
        write!(f, ", {bytes:.0} of the server")?;
    }
    writeln!(f)
}

impl Row {
    fn median(&self, figure: Figure) -> Option<f64> {
        self.figures.get(&figure).map(|spread| spread.median)
    }

    fn ratio(&self, figure: Figure) -> Option<f64> {
        self.ratios.get(&figure).map(|spread| spread.median)
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |value| format!("{value:.digits$}"))
}
