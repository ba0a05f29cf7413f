//! The history of every upload, as its caller and its server saw it, and the judge of it.
//!
//! The numbers are the invariants of docs/reliability.md.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// The end that the caller of an upload was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UploadEnd {
    /// The method has answered, by a value or by its own error.
    Answered,
    /// The method may have run.
    Unknown,
    /// The method certainly did not run.
    NotRun,
    /// The caller was told nothing: it dropped the call.
    Dropped,
}

#[derive(Debug)]
struct UploadEntry {
    /// The number of items of the whole upload.
    length: u64,
    /// The number of items that the method reads, if it is answered.
    due: u64,
    /// The number of items that the caller's stream has given, once it was dropped.
    given: Option<u64>,
    end: Option<UploadEnd>,
}

/// A run of the method of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UploadRun {
    /// The number of items that were read, and whether their end was, once it has ended.
    read: Option<(u64, bool)>,
    /// Whether it ran in a process that may be killed, which nobody is told the end by.
    may_be_killed: bool,
}

#[derive(Debug, Default)]
struct History {
    uploads: BTreeMap<u64, UploadEntry>,
    runs: BTreeMap<u64, Vec<UploadRun>>,
    complaints: Vec<String>,
}

/// The history of all uploads of a run.
#[derive(Debug, Default)]
pub struct UploadBook(Mutex<History>);

impl UploadBook {
    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("no panic under a lock")
    }

    /// A caller begins an upload of so many items, of which the method reads as many as are due.
    pub fn begin(&self, id: u64, length: u64, due: u64) {
        let entry = UploadEntry {
            length,
            due,
            given: None,
            end: None,
        };
        let twice = self.history().uploads.insert(id, entry);
        assert!(twice.is_none(), "upload {id} is new");
    }

    /// The stream of the caller was dropped, after it had given so many items.
    pub fn source_dropped(&self, id: u64, given: u64) {
        let mut history = self.history();
        let entry = history.uploads.get_mut(&id).expect("an upload that began");
        if entry.given.replace(given).is_some() {
            let text = format!("18: the stream of upload {id} was dropped twice");
            history.complaints.push(text);
        }
    }

    /// A caller is told the end.
    pub fn ended(&self, id: u64, end: UploadEnd) {
        let mut history = self.history();
        let entry = history.uploads.get_mut(&id).expect("an upload that began");
        if entry.end.replace(end).is_some() {
            let text = format!("18: upload {id} has ended twice");
            history.complaints.push(text);
        }
    }

    /// The method of an upload has begun.
    pub fn run(&self, id: u64, may_be_killed: bool) {
        let run = UploadRun {
            read: None,
            may_be_killed,
        };
        self.history().runs.entry(id).or_default().push(run);
    }

    /// The method of an upload was dropped, after it had read so many items, and perhaps their end.
    pub fn run_ended(&self, id: u64, read: u64, is_whole: bool) {
        let mut history = self.history();
        let runs = history.runs.entry(id).or_default();
        match runs.iter_mut().find(|run| run.read.is_none()) {
            Some(run) => run.read = Some((read, is_whole)),
            None => {
                let text =
                    format!("18: upload {id} has ended at its server more often than it began");
                history.complaints.push(text);
            }
        }
    }

    /// The number of uploads whose stream is not dropped, or whose method runs at a server which is not killed.
    pub fn running(&self) -> usize {
        let history = self.history();
        let given = history.uploads.values();
        let open = given.filter(|entry| entry.given.is_none()).count();
        let runs = history.runs.values().flatten();
        let running = runs.filter(|run| run.read.is_none() && !run.may_be_killed);
        open + running.count()
    }

    /// Everything that should not be.
    pub fn violations(&self) -> Vec<String> {
        let history = self.history();
        let mut found = history.complaints.clone();
        for (id, entry) in &history.uploads {
            let runs = history.runs.get(id).map_or(&[][..], Vec::as_slice);
            judge(*id, entry, runs, &mut found);
        }
        for id in history.runs.keys() {
            if !history.uploads.contains_key(id) {
                found.push(format!("5: nobody has begun upload {id}, and it ran"));
            }
        }
        found
    }
}

fn judge(id: u64, entry: &UploadEntry, runs: &[UploadRun], found: &mut Vec<String>) {
    let UploadEntry {
        length,
        due,
        given,
        end,
    } = entry;
    match end {
        None => found.push(format!("18: upload {id} has not ended for its caller")),
        Some(UploadEnd::Answered) if runs.is_empty() => {
            found.push(format!("2: upload {id} was answered and never ran"));
        }
        Some(UploadEnd::NotRun) if !runs.is_empty() => {
            found.push(format!("2: upload {id} was said not to have run, and ran"));
        }
        _ => {}
    }
    let Some(given) = given else {
        found.push(format!("18: the stream of upload {id} was not dropped"));
        return;
    };
    if runs.len() > 1 {
        found.push(format!("8: upload {id} ran {} times", runs.len()));
    }
    for run in runs {
        match run.read {
            Some((read, _)) if read > *given => {
                found.push(format!(
                    "18: {read} items of upload {id} were read, of which {given} were given"
                ));
            }
            Some((read, true)) if read != *length => {
                found.push(format!(
                    "18: upload {id} was whole after {read} of {length} items"
                ));
            }
            Some((read, _)) if *end == Some(UploadEnd::Answered) && read != *due => {
                found.push(format!(
                    "18: upload {id} was answered after {read} items instead of {due}"
                ));
            }
            None if !run.may_be_killed => {
                found.push(format!("18: upload {id} has not ended at its server"));
            }
            _ => {}
        }
    }
}

/// The lines of the table at the end of a run.
impl fmt::Display for UploadBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = self.history();
        let mut ends: BTreeMap<UploadEnd, u32> = BTreeMap::new();
        for end in history.uploads.values().filter_map(|entry| entry.end) {
            *ends.entry(end).or_default() += 1;
        }
        let ends: Vec<_> = ends
            .iter()
            .map(|(end, count)| format!("{count} {end:?}"))
            .collect();
        let runs = history.runs.values().flatten().filter_map(|run| run.read);
        let (items, whole) = runs.fold((0, 0), |(items, whole), (read, is_whole)| {
            (items + read, whole + u32::from(is_whole))
        });
        let count = history.uploads.len();
        write!(
            f,
            "  {count} uploads with {items} items, {whole} of them read to their end: {}",
            ends.join(", ")
        )
    }
}

/// The judge must be able to say no.
mod tests {
    use super::*;

    fn numbers(book: &UploadBook) -> Vec<String> {
        let found = book.violations();
        let numbers = found.iter().filter_map(|text| text.split(':').next());
        numbers.map(str::to_owned).collect()
    }

    #[test]
    fn good_uploads_are_good() {
        let book = UploadBook::default();
        let ends = [
            (UploadEnd::Answered, 3, true),
            // The method answers before the end of the items.
            (UploadEnd::Answered, 1, false),
            (UploadEnd::Unknown, 2, false),
            (UploadEnd::Dropped, 0, false),
        ];
        for (id, (end, read, is_whole)) in (1..).zip(ends) {
            book.begin(id, 3, read);
            book.run(id, false);
            assert_eq!(book.running(), 2);
            book.source_dropped(id, 3);
            book.ended(id, end);
            book.run_ended(id, read, is_whole);
        }
        book.begin(5, 3, 3);
        book.source_dropped(5, 0);
        book.ended(5, UploadEnd::NotRun);
        book.begin(6, 3, 3);
        book.run(6, true);
        book.source_dropped(6, 1);
        book.ended(6, UploadEnd::Unknown);
        assert_eq!((numbers(&book), book.running()), (vec![], 0));
    }

    #[test]
    fn each_wrong_of_an_upload_is_seen() {
        type Story = fn(&UploadBook);
        let stories: [(&str, Story); 12] = [
            ("18", |book| book.source_dropped(1, 0)),
            // The caller's stream is not dropped.
            ("18", |book| book.ended(1, UploadEnd::Dropped)),
            ("18", |book| {
                book.ended(1, UploadEnd::Dropped);
                book.source_dropped(1, 0);
                book.source_dropped(1, 0);
            }),
            ("18", |book| {
                book.source_dropped(1, 0);
                book.ended(1, UploadEnd::Unknown);
                book.ended(1, UploadEnd::Unknown);
            }),
            ("18", |book| {
                // The method has read more items than were given.
                book.run(1, false);
                book.run_ended(1, 2, false);
                book.source_dropped(1, 1);
                book.ended(1, UploadEnd::Unknown);
            }),
            ("18", |book| {
                // The end comes before the last item.
                book.run(1, false);
                book.run_ended(1, 2, true);
                book.source_dropped(1, 3);
                book.ended(1, UploadEnd::Answered);
            }),
            ("18", |book| {
                book.run(1, false);
                book.source_dropped(1, 0);
                book.ended(1, UploadEnd::Dropped);
            }),
            ("18", |book| {
                book.run(1, false);
                book.run_ended(1, 0, false);
                book.run_ended(1, 0, false);
                book.source_dropped(1, 0);
                book.ended(1, UploadEnd::Dropped);
            }),
            ("18", |book| {
                // The method answers before it has read all that it should.
                book.run(1, false);
                book.run_ended(1, 2, false);
                book.source_dropped(1, 3);
                book.ended(1, UploadEnd::Answered);
            }),
            ("2", |book| {
                book.source_dropped(1, 3);
                book.ended(1, UploadEnd::Answered);
            }),
            ("2", |book| {
                book.run(1, true);
                book.source_dropped(1, 3);
                book.ended(1, UploadEnd::NotRun);
            }),
            ("8", |book| {
                book.run(1, true);
                book.run(1, true);
                book.source_dropped(1, 3);
                book.ended(1, UploadEnd::Unknown);
            }),
        ];
        for (story, (number, happens)) in stories.into_iter().enumerate() {
            let book = UploadBook::default();
            book.begin(1, 3, 3);
            happens(&book);
            assert_eq!(numbers(&book), [number], "story {story}");
        }
        let book = UploadBook::default();
        book.run(7, true);
        assert_eq!(numbers(&book), ["5"]);
    }
}
