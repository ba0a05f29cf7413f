//! Progress of what takes long: a line on stderr that is written again, on terminals only.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_millis(100);

/// A line of progress. It is removed when this is dropped.
pub(crate) struct Progress {
    unit: &'static str,
    total: u64,
    started: Instant,
    /// The time of the last write, if stderr is a terminal.
    written: Option<Instant>,
    is_visible: bool,
}

impl Progress {
    pub(crate) fn new(unit: &'static str, total: u64) -> Self {
        let started = Instant::now();
        Self {
            unit,
            total,
            started,
            written: io::stderr().is_terminal().then_some(started),
            is_visible: false,
        }
    }

    /// Shows that so many are done.
    pub(crate) fn at(&mut self, done: u64) {
        let Some(written) = &mut self.written else {
            return;
        };
        if written.elapsed() < PAUSE {
            return;
        }
        *written = Instant::now();
        self.is_visible = true;
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let (total, unit) = (self.total, self.unit);
        // Nothing can be done if stderr is closed.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{done} of {total} {unit}, {rate:.0} a second"
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_visible {
            // As above.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
