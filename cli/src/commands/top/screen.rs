//! The state of the screen: the last figures, and what the user has chosen.

use std::collections::BTreeMap;

use lepus::Error;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind};

use super::rates::{ServedRow, rows};
use super::sample::{Depth, Sample};
use crate::failure::with_causes;

/// The lines that a page key scrolls by.
const PAGE: usize = 10;

/// The state of the screen.
pub(super) struct Screen {
    pub(super) has_colors: bool,
    last: Option<Sample>,
    rows: Vec<ServedRow>,
    pub(super) order: Order,
    /// The first line of the services that is shown.
    pub(super) scrolled: usize,
    /// The last error, until a sample succeeds.
    pub(super) error: Option<String>,
}

/// The order of the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Name,
    Rate,
    P95,
    Errors,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::Rate,
            Self::Rate => Self::P95,
            Self::P95 => Self::Errors,
            Self::Errors => Self::Name,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Rate => "rate",
            Self::P95 => "p95",
            Self::Errors => "errors",
        }
    }
}

impl Screen {
    pub(super) fn new(has_colors: bool) -> Self {
        Self {
            has_colors,
            last: None,
            rows: Vec::new(),
            order: Order::default(),
            scrolled: 0,
            error: None,
        }
    }

    /// Shows another sample.
    pub(super) fn update(&mut self, sample: Sample) {
        self.rows = rows(self.last.as_ref(), &sample);
        self.last = Some(sample);
        self.error = None;
        self.sort();
    }

    /// Shows the error of a sample. The figures of the one before stay.
    pub(super) fn failed(&mut self, error: Error) {
        self.error = Some(with_causes(&error));
    }

    pub(super) fn on_key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        match key.code {
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.sort();
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|line| line.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|line| line + 1),
            KeyCode::PageUp => self.scroll(|line| line.saturating_sub(PAGE)),
            KeyCode::PageDown => self.scroll(|line| line + PAGE),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
    }

    fn scroll(&mut self, change: impl FnOnce(usize) -> usize) {
        let last = self.rows.len().saturating_sub(1);
        self.scrolled = change(self.scrolled).min(last);
    }

    fn sort(&mut self) {
        let order = self.order;
        // The rows are in the order of their names, which the sort keeps among equals.
        self.rows.sort_by(|a, b| a.name.cmp(&b.name));
        self.rows.sort_by(|a, b| match order {
            Order::Name => std::cmp::Ordering::Equal,
            Order::Rate => descending(a.rate, b.rate),
            Order::P95 => {
                let seconds = |row: &ServedRow| Some(row.p95?.duration().as_secs_f64());
                descending(seconds(a), seconds(b))
            }
            Order::Errors => descending(a.error_rate, b.error_rate).then(b.errors.cmp(&a.errors)),
        });
        self.scroll(|line| line);
    }

    pub(super) fn rows(&self) -> &[ServedRow] {
        &self.rows
    }

    /// The work queues. `None` before the first sample.
    pub(super) fn queues(&self) -> Option<&BTreeMap<String, Depth>> {
        self.last.as_ref().map(|sample| &sample.queues)
    }
}

fn descending(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    let number = |it: Option<f64>| it.unwrap_or(-1.0);
    number(b).total_cmp(&number(a))
}
