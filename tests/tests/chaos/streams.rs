//! The history of every stream, as its reader and its server saw it, and the judge of it.
//!
//! The numbers are the invariants of docs/reliability.md.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// The end that the reader of a stream was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamEnd {
    /// All items came, and the end as the method made it.
    Complete,
    /// It was open, and an error ended it before.
    Broken,
    /// It was not opened, and its method may have run.
    Unknown,
    /// It was not opened, and its method certainly did not run.
    NotRun,
    /// The reader was told nothing: it dropped the stream.
    Dropped,
}

#[derive(Debug)]
struct StreamEntry {
    /// The number of items of the whole stream.
    length: u64,
    seen: u64,
    end: Option<StreamEnd>,
}

/// A run of the method of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamRun {
    /// The number of items that were sent, once it has ended.
    sent: Option<u64>,
    /// Whether it ran in a process that may be killed, which nobody is told the end by.
    may_be_killed: bool,
}

#[derive(Debug, Default)]
struct History {
    streams: BTreeMap<u64, StreamEntry>,
    runs: BTreeMap<u64, Vec<StreamRun>>,
    complaints: Vec<String>,
}

/// The history of all streams of a run.
#[derive(Debug, Default)]
pub struct StreamBook(Mutex<History>);

impl StreamBook {
    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("no panic under a lock")
    }

    /// A reader opens a stream of so many items.
    pub fn open(&self, id: u64, length: u64) {
        let entry = StreamEntry {
            length,
            seen: 0,
            end: None,
        };
        let twice = self.history().streams.insert(id, entry);
        assert!(twice.is_none(), "stream {id} is new");
    }

    /// A reader got an item: the stream and the number that are in it.
    pub fn item(&self, id: u64, (of, number): (u64, u64)) {
        let mut history = self.history();
        let entry = history.streams.get_mut(&id).expect("a stream that began");
        let (due, is_over) = (entry.seen, entry.end.is_some());
        entry.seen += 1;
        if (of, number) != (id, due) || is_over {
            let text =
                format!("16: stream {id} got item {number} of stream {of} after {due} items");
            history.complaints.push(text);
        }
    }

    /// A reader is told the end.
    pub fn ended(&self, id: u64, end: StreamEnd) {
        let mut history = self.history();
        let entry = history.streams.get_mut(&id).expect("a stream that began");
        if entry.end.replace(end).is_some() {
            let text = format!("16: stream {id} has ended twice");
            history.complaints.push(text);
        }
    }

    /// The method of a stream has begun.
    pub fn run(&self, id: u64, may_be_killed: bool) {
        let run = StreamRun {
            sent: None,
            may_be_killed,
        };
        self.history().runs.entry(id).or_default().push(run);
    }

    /// The stream of the method was dropped, after so many items.
    pub fn run_ended(&self, id: u64, sent: u64) {
        let mut history = self.history();
        let runs = history.runs.entry(id).or_default();
        match runs.iter_mut().find(|run| run.sent.is_none()) {
            Some(run) => run.sent = Some(sent),
            None => {
                let text =
                    format!("17: stream {id} has ended at its server more often than it began");
                history.complaints.push(text);
            }
        }
    }

    /// The number of streams that are open at a server which is not killed.
    pub fn running(&self) -> usize {
        let history = self.history();
        let runs = history.runs.values().flatten();
        runs.filter(|run| run.sent.is_none() && !run.may_be_killed)
            .count()
    }

    /// Everything that should not be.
    pub fn violations(&self) -> Vec<String> {
        let history = self.history();
        let mut found = history.complaints.clone();
        for (id, entry) in &history.streams {
            let runs = history.runs.get(id).map_or(&[][..], Vec::as_slice);
            judge(*id, entry, runs, &mut found);
        }
        for id in history.runs.keys() {
            if !history.streams.contains_key(id) {
                found.push(format!("5: nobody has opened stream {id}, and it ran"));
            }
        }
        found
    }
}

fn judge(id: u64, entry: &StreamEntry, runs: &[StreamRun], found: &mut Vec<String>) {
    let StreamEntry { length, seen, end } = entry;
    match end {
        None => found.push(format!("16: stream {id} has not ended for its reader")),
        Some(StreamEnd::Complete) if seen != length => {
            found.push(format!(
                "16: stream {id} has ended in order after {seen} of {length} items"
            ));
        }
        Some(StreamEnd::Complete | StreamEnd::Broken) if runs.is_empty() => {
            found.push(format!("2: stream {id} was open and never ran"));
        }
        Some(StreamEnd::NotRun) if !runs.is_empty() => {
            found.push(format!("2: stream {id} was said not to have run, and ran"));
        }
        _ => {}
    }
    if runs.len() > 1 {
        found.push(format!("8: stream {id} ran {} times", runs.len()));
    }
    for run in runs {
        match run.sent {
            Some(sent) if sent < *seen => {
                found.push(format!(
                    "16: stream {id} has {seen} items, of which {sent} were sent"
                ));
            }
            None if !run.may_be_killed => {
                found.push(format!("17: stream {id} has not ended at its server"));
            }
            _ => {}
        }
    }
}

/// The lines of the table at the end of a run.
impl fmt::Display for StreamBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = self.history();
        let mut ends: BTreeMap<StreamEnd, u32> = BTreeMap::new();
        for end in history.streams.values().filter_map(|entry| entry.end) {
            *ends.entry(end).or_default() += 1;
        }
        let ends: Vec<_> = ends
            .iter()
            .map(|(end, count)| format!("{count} {end:?}"))
            .collect();
        let items: u64 = history.streams.values().map(|entry| entry.seen).sum();
        let count = history.streams.len();
        write!(
            f,
            "  {count} streams with {items} items: {}",
            ends.join(", ")
        )
    }
}

/// The judge must be able to say no.
mod tests {
    use super::*;

    fn numbers(book: &StreamBook) -> Vec<String> {
        let found = book.violations();
        let numbers = found.iter().filter_map(|text| text.split(':').next());
        numbers.map(str::to_owned).collect()
    }

    fn reads(book: &StreamBook, id: u64, items: u64) {
        (0..items).for_each(|number| book.item(id, (id, number)));
    }

    #[test]
    fn good_streams_are_good() {
        let book = StreamBook::default();
        let ends = [
            (StreamEnd::Complete, 3),
            (StreamEnd::Broken, 2),
            (StreamEnd::Dropped, 0),
            (StreamEnd::Unknown, 0),
        ];
        for (id, (end, seen)) in (1..).zip(ends) {
            book.open(id, 3);
            book.run(id, false);
            assert_eq!(book.running(), 1);
            reads(&book, id, seen);
            book.ended(id, end);
            book.run_ended(id, 3);
        }
        book.open(5, 3);
        book.ended(5, StreamEnd::NotRun);
        book.open(6, 3);
        book.run(6, true);
        reads(&book, 6, 1);
        book.ended(6, StreamEnd::Broken);
        assert_eq!((numbers(&book), book.running()), (vec![], 0));
    }

    #[test]
    fn each_wrong_of_a_stream_is_seen() {
        type Story = fn(&StreamBook);
        let stories: [(&str, Story); 13] = [
            ("16", |_| {}),
            ("16", |book| {
                // Doubled.
                book.run(1, false);
                book.item(1, (1, 0));
                book.item(1, (1, 0));
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Broken);
            }),
            ("16", |book| {
                // A gap.
                book.run(1, false);
                book.item(1, (1, 1));
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Broken);
            }),
            ("16", |book| {
                // Of another stream.
                book.run(1, false);
                book.item(1, (2, 0));
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Broken);
            }),
            ("16", |book| {
                book.run(1, false);
                reads(book, 1, 2);
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Complete);
            }),
            ("16", |book| {
                book.run(1, false);
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Broken);
                book.ended(1, StreamEnd::Broken);
            }),
            ("16", |book| {
                // An item behind the end.
                book.run(1, false);
                book.run_ended(1, 3);
                book.ended(1, StreamEnd::Broken);
                book.item(1, (1, 0));
            }),
            ("16", |book| {
                // More than were sent.
                book.run(1, false);
                reads(book, 1, 3);
                book.run_ended(1, 2);
                book.ended(1, StreamEnd::Broken);
            }),
            ("17", |book| {
                book.run(1, false);
                book.ended(1, StreamEnd::Dropped);
            }),
            ("17", |book| {
                book.run(1, false);
                book.run_ended(1, 0);
                book.run_ended(1, 0);
                book.ended(1, StreamEnd::Dropped);
            }),
            ("2", |book| book.ended(1, StreamEnd::Broken)),
            ("2", |book| {
                book.run(1, true);
                book.ended(1, StreamEnd::NotRun);
            }),
            ("8", |book| {
                book.run(1, true);
                book.run(1, true);
                book.ended(1, StreamEnd::Unknown);
            }),
        ];
        for (story, (number, happens)) in stories.into_iter().enumerate() {
            let book = StreamBook::default();
            book.open(1, 3);
            happens(&book);
            assert_eq!(numbers(&book), [number], "story {story}");
        }
        let book = StreamBook::default();
        book.run(7, true);
        assert_eq!(numbers(&book), ["5"]);
    }
}
