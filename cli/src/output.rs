//! Output: tables for people, JSON for programs, and the log.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets,
};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tracing_subscriber::filter::LevelFilter;

use crate::args::Format;
use crate::exit::Exit;
use crate::failure::Failure;

/// Writes the results of a command to stdout.
pub(crate) struct Output {
    format: Format,
    is_terminal: bool,
    has_colors: bool,
}

/// The meaning of a cell, which is shown as a colour where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Doubtful,
    Bad,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self {
            format,
            is_terminal,
            has_colors: is_terminal && are_colors_wanted(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether stdout is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether there are colours.
    pub(crate) fn has_colors(&self) -> bool {
        self.has_colors
    }

    /// Writes records: as one JSON array, as a line each, or as the table.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn records<T: Serialize>(
        &self,
        records: &[T],
        table: impl FnOnce(&[T]) -> Rows,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.table(table(records)),
            Format::Json => self.json(&records),
            Format::Jsonl => records.iter().try_for_each(|record| self.line(record)),
        }
    }

    /// Writes one record: as JSON, or as the table.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn record<T: Serialize>(
        &self,
        record: &T,
        table: impl FnOnce(&T) -> Rows,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.table(table(record)),
            Format::Json => self.json(record),
            Format::Jsonl => self.line(record),
        }
    }

    /// Writes a value as JSON on several lines.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&serde_json::to_string_pretty(value).map_err(not_json)?)
    }

    /// Writes a value as JSON on one line.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&serde_json::to_string(value).map_err(not_json)?)
    }

    /// Writes a text and the end of a line.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Writes a text and the end of a line in another thread, so that a signal is heeded while the reader of stdout is
    /// slow. If the future is dropped, the text may be written or not.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) async fn text_apart(&self, mut text: String) -> Result<(), Failure> {
        text.push('\n');
        let mut stdout = tokio::io::stdout();
        stdout.write_all(text.as_bytes()).await?;
        Ok(stdout.flush().await?)
    }

    /// Writes a value as JSON on one line, as [`text_apart`](Self::text_apart) does.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) async fn line_apart(&self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(not_json)?;
        self.text_apart(line).await
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Writes a table. On a terminal it has the terminal's width, and cells are wrapped; elsewhere each row is one
    /// line.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub(crate) fn table(&self, rows: Rows) -> Result<(), Failure> {
        self.text(&rows.render(self.is_terminal, self.has_colors))
    }
}

/// Completes when the reader of stdout has gone, as `head` does after its last line: what follows would be written for
/// nobody. Never for a file.
#[cfg(target_os = "linux")]
pub(crate) async fn closed() {
    use std::os::fd::AsFd as _;
    use tokio::{io::Interest, net::unix::pipe::Sender};
    // Nothing is written to it, so that it need not be in non-blocking mode, which other programs would see too.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    match stdout.and_then(Sender::from_owned_fd_unchecked) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        // A file cannot be waited for.
        Err(_) => std::future::pending().await,
    }
}

/// Never completes: the next write tells that the reader of stdout has gone.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn closed() {
    std::future::pending().await
}

/// Writes a note to stderr: what the command does, and what it left out.
pub(crate) fn note(text: &str) {
    // Nothing can be done if stderr is closed.
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// The log of the library, to stderr.
pub(crate) fn start_log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && are_colors_wanted())
        .init();
}

/// Whether a terminal may get colours: `NO_COLOR` is not set, or empty, and the terminal is not a dumb one.
fn are_colors_wanted() -> bool {
    let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = env::var("TERM").is_ok_and(|term| term == "dumb");
    !is_unwanted && !is_dumb
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(
        Exit::Internal,
        format!("the result cannot be written as JSON: {error}"),
    )
}

/// A table: a head, and rows of cells.
pub(crate) struct Rows {
    head: Vec<&'static str>,
    /// The columns that are aligned to the right.
    numbers: Vec<usize>,
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Rows {
    /// A table with these columns. Those whose name begins with `#` have numbers.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        let numbers = columns.iter().enumerate();
        let numbers = numbers.filter(|(_, name)| name.starts_with('#'));
        Self {
            numbers: numbers.map(|(index, _)| index).collect(),
            head: columns
                .iter()
                .map(|name| name.trim_start_matches('#'))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells = cells.into_iter().map(|cell| (cell.into(), None));
        self.rows.push(cells.collect());
    }

    /// Adds a row with tones.
    pub(crate) fn toned(&mut self, cells: impl IntoIterator<Item = (String, Option<Tone>)>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn render(self, is_terminal: bool, has_colors: bool) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let widths = self.widths();
        // A terminal that does not know its width says 0.
        let limit = table.width().filter(|width| is_terminal && *width > 0);
        let limit = limit.map_or(usize::MAX, usize::from);
        let total: usize = widths.iter().map(|width| width + GAP).sum();
        if total > limit {
            let fixed = widths.iter().map(|width| match is_short(*width) {
                true => width + GAP,
                false => SHORT + GAP,
            });
            if fixed.sum::<usize>() > limit {
                return self.vertical();
            }
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if has_colors {
            table.enforce_styling().style_text_only();
        }
        let bold = |name: &&str| match has_colors {
            true => Cell::new(name).add_attribute(Attribute::Bold),
            false => Cell::new(name),
        };
        table.set_header(self.head.iter().map(bold));
        for row in &self.rows {
            table.add_row(row.iter().map(|(text, tone)| cell(text, *tone, has_colors)));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.numbers.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if total > limit && widths.get(index).is_some_and(|width| is_short(*width)) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The width of each column, if nothing is wrapped.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, (text, _)) in widths.iter_mut().zip(row) {
                let lines = text.lines().map(|line| line.chars().count());
                *width = lines.max().unwrap_or(0).max(*width);
            }
        }
        widths
    }

    /// A line for each cell, for a terminal on which the columns would be too narrow to read.
    fn vertical(&self) -> String {
        let name_width = self.head.iter().map(|name| name.chars().count()).max();
        let name_width = name_width.unwrap_or(0);
        let rows = self.rows.iter().map(|row| {
            let cells = self.head.iter().zip(row);
            let cells = cells.filter(|(_, (text, _))| !text.is_empty());
            let lines = cells.map(|(name, (text, _))| {
                let text = printable(text).replace('\n', " ");
                format!("{name:<name_width$}  {text}")
            });
            lines.collect::<Vec<_>>().join("\n")
        });
        rows.collect::<Vec<_>>().join("\n\n")
    }
}

/// The space behind a column.
const GAP: usize = 2;
/// The width up to which a column is not wrapped.
const SHORT: usize = 24;

fn is_short(width: usize) -> bool {
    width <= SHORT
}

/// The text of a peer with its control characters escaped, so that it cannot act on the terminal.
pub(crate) fn printable(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '\n' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    escaped.collect()
}

fn cell(text: &str, tone: Option<Tone>, has_colors: bool) -> Cell {
    let cell = Cell::new(printable(text));
    match tone.filter(|_| has_colors) {
        None => cell,
        Some(Tone::Good) => cell.fg(Color::Green),
        Some(Tone::Doubtful) => cell.fg(Color::Yellow),
        Some(Tone::Bad) => cell.fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::new(&["NAME", "#COUNT", "TEXT"]);
        rows.row(["hare", "7", "first\nsecond"]);
        rows.row(["h\u{1b}[31m", "12", ""]);
        rows
    }

    #[test]
    fn a_table_has_aligned_columns() {
        let lines = [
            "NAME         COUNT  TEXT",
            "hare             7  first",
            "                    second",
            "h\\u{1b}[31m     12",
        ];
        assert_eq!(rows().render(false, false), lines.join("\n"));
    }

    #[test]
    fn a_narrow_terminal_gets_a_line_for_each_cell() {
        let lines = [
            "NAME   hare",
            "COUNT  7",
            "TEXT   first second",
            "",
            "NAME   h\\u{1b}[31m",
            "COUNT  12",
        ];
        assert_eq!(rows().vertical(), lines.join("\n"));
    }
}
