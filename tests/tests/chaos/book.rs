//! What happened to every call and every job, and the judge who reads it.
//!
//! The numbers are the invariants of docs/reliability.md.

use lepus_tests::hands::{ATTEMPTS, Sight, Witness};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A call or push may end this much after its deadline on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// A request that is in time when it comes may begin this much later.
const LATE: Duration = Duration::from_millis(200);

/// What its caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// It was done.
    Done,
    /// It certainly was not.
    NotDone,
    /// Nobody knows.
    Unknown,
}

/// How often a call may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Any,
    OncePerLoss,
    AtMostOnce,
    Never,
}

#[derive(Debug)]
pub struct Call {
    pub kind: &'static str,
    pub runs: Runs,
    began: Instant,
    timeout: Duration,
    ended: Option<(End, Duration)>,
}

/// What a job is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its handler succeeds, at once or later.
    Done,
    /// Its handler never does.
    Dead,
    /// It waits in a queue that nobody works on.
    Kept,
    /// There is no queue for it.
    Nowhere,
}

#[derive(Debug)]
struct JobEntry {
    fate: Fate,
    pushed: Option<End>,
    began: Instant,
    timeout: Duration,
    took: Duration,
    done: u32,
    dead: u32,
    kept: u32,
}

/// A run of a handler.
#[derive(Debug, Clone, Copy)]
struct Run {
    redelivered: bool,
    attempt: u32,
}

#[derive(Debug, Default)]
struct Pages {
    calls: BTreeMap<u64, Call>,
    jobs: BTreeMap<u64, JobEntry>,
    call_runs: BTreeMap<u64, Vec<Run>>,
    job_runs: BTreeMap<u64, Vec<Run>>,
    faults: BTreeMap<&'static str, u32>,
    /// Jobs confirmed and not done, as far as that is known.
    backlog: i64,
    /// How often a process lost all that it had in hand, and the jobs delivered to one again.
    lost_there: u64,
    redelivered_there: u64,
    /// Seen to be wrong at once.
    complaints: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().expect("no panic under a lock")
    }

    pub fn call(&self, id: u64, kind: &'static str, runs: Runs, timeout: Duration) {
        let call = Call {
            kind,
            runs,
            began: Instant::now(),
            timeout,
            ended: None,
        };
        let twice = self.pages().calls.insert(id, call);
        assert!(twice.is_none(), "call {id} is new");
    }

    pub fn call_ended(&self, id: u64, end: End) {
        let mut pages = self.pages();
        let call = pages.calls.get_mut(&id).expect("a call that began");
        let again = call.ended.replace((end, call.began.elapsed()));
        if again.is_some() {
            pages
                .complaints
                .push(format!("1: call {id} has ended twice"));
        }
    }

    pub fn call_run(&self, id: u64, redelivered: bool) {
        let run = Run {
            redelivered,
            attempt: 1,
        };
        self.pages().call_runs.entry(id).or_default().push(run);
    }

    pub fn push(&self, id: u64, fate: Fate, timeout: Duration) {
        let entry = JobEntry {
            fate,
            pushed: None,
            began: Instant::now(),
            timeout,
            took: Duration::ZERO,
            done: 0,
            dead: 0,
            kept: 0,
        };
        let twice = self.pages().jobs.insert(id, entry);
        assert!(twice.is_none(), "job {id} is new");
    }

    pub fn pushed(&self, id: u64, end: End) {
        let mut pages = self.pages();
        let job = pages.jobs.get_mut(&id).expect("a job that was pushed");
        job.took = job.began.elapsed();
        job.pushed = Some(end);
        if (end, job.fate) == (End::Done, Fate::Done) {
            pages.backlog += 1;
        }
    }

    pub fn job_run(&self, id: u64, redelivered: bool, attempt: u32) {
        let run = Run {
            redelivered,
            attempt,
        };
        self.pages().job_runs.entry(id).or_default().push(run);
    }

    pub fn job_done(&self, id: u64) {
        self.with_job(id, |job| job.done += 1);
        self.pages().backlog -= 1;
    }

    /// Have the workers more to do than they will have done soon?
    pub fn is_behind(&self) -> bool {
        self.pages().backlog > 1_000
    }

    pub fn job_dead(&self, id: u64) {
        self.with_job(id, |job| job.dead += 1);
    }

    pub fn job_kept(&self, id: u64) {
        self.with_job(id, |job| job.kept += 1);
    }

    fn with_job(&self, id: u64, change: impl FnOnce(&mut JobEntry)) {
        let mut pages = self.pages();
        match pages.jobs.get_mut(&id) {
            Some(job) => change(job),
            None => pages.complaints.push(format!("5: nobody pushed job {id}")),
        }
    }

    pub fn fault(&self, what: &'static str) {
        *self.pages().faults.entry(what).or_default() += 1;
    }

    /// A fault that costs a process what it has in hand.
    pub fn process_lost(&self, how: &'static str) {
        self.fault(how);
        self.pages().lost_there += 1;
    }

    /// What a process saw. Those that were frozen may begin anything late.
    pub fn process_told(&self, mut sight: Sight, was_frozen: bool) {
        match &mut sight {
            Sight::JobRun {
                redelivered: true, ..
            } => self.pages().redelivered_there += 1,
            Sight::CallRun { late, .. } if was_frozen => *late = Duration::ZERO,
            _ => {}
        }
        self.hears(sight);
    }

    /// How often a process lost what it had in hand, and the jobs delivered to one again.
    pub fn processes(&self) -> (u64, u64) {
        let pages = self.pages();
        (pages.lost_there, pages.redelivered_there)
    }

    /// Also said at once: what it leads to may end the run before the judge speaks.
    pub fn complain(&self, what: String) {
        println!("  {what}");
        self.pages().complaints.push(what);
    }

    /// Confirmed jobs that are to be done and have not been yet.
    pub fn unfinished(&self) -> usize {
        let pages = self.pages();
        let waits =
            |job: &&JobEntry| (job.pushed, job.fate, job.done) == (Some(End::Done), Fate::Done, 0);
        pages.jobs.values().filter(waits).count()
    }

    /// Everything that should not be.
    pub fn violations(&self) -> Vec<String> {
        let pages = self.pages();
        let mut found = pages.complaints.clone();
        for (id, call) in &pages.calls {
            let runs = pages.call_runs.get(id).map_or(&[][..], Vec::as_slice);
            judge_call(*id, call, runs, &mut found);
        }
        for id in pages.call_runs.keys() {
            if !pages.calls.contains_key(id) {
                found.push(format!("5: nobody called {id}, and it ran"));
            }
        }
        for (id, job) in &pages.jobs {
            let runs = pages.job_runs.get(id).map_or(&[][..], Vec::as_slice);
            judge_job(*id, job, runs, &mut found);
        }
        found
    }

    /// How often handlers ran again, calls and jobs.
    pub fn duplicates(&self) -> (u64, u64) {
        let pages = self.pages();
        let calls = pages.call_runs.values().map(|runs| runs.len() as u64 - 1);
        let again = |runs: &Vec<Run>| runs.iter().filter(|run| run.redelivered).count() as u64;
        (calls.sum(), pages.job_runs.values().map(again).sum())
    }
}

impl Witness for Book {
    fn hears(&self, sight: Sight) {
        match sight {
            Sight::CallRun {
                id,
                redelivered,
                late,
            } => {
                self.call_run(id, redelivered);
                if late > LATE {
                    self.complain(format!("11: call {id} began {late:?} after its deadline"));
                }
            }
            Sight::JobRun {
                id,
                redelivered,
                attempt,
            } => self.job_run(id, redelivered, attempt),
            Sight::JobDone { id } => self.job_done(id),
            Sight::Wrong(what) => self.complain(what),
        }
    }
}

fn judge_call(id: u64, call: &Call, runs: &[Run], found: &mut Vec<String>) {
    let kind = call.kind;
    let Some((end, took)) = call.ended else {
        found.push(format!("1: {kind} call {id} has not ended"));
        return;
    };
    if took > call.timeout + SLACK {
        found.push(format!(
            "1: {kind} call {id} took {took:?}, its limit was {:?}",
            call.timeout
        ));
    }
    let times = runs.len();
    match (end, times) {
        (End::Done, 0) => found.push(format!("2: {kind} call {id} was answered and never ran")),
        (End::NotDone, 1..) => {
            found.push(format!(
                "2: {kind} call {id} was said not to have run, and ran {times} times"
            ));
        }
        _ => {}
    }
    let first_runs = runs.iter().filter(|run| !run.redelivered).count();
    let fault = match call.runs {
        Runs::Any => None,
        Runs::Never => (times > 0).then_some("should never run"),
        Runs::AtMostOnce => (times > 1).then_some("runs at most once"),
        Runs::OncePerLoss => (first_runs > 1).then_some("runs again only when redelivered"),
    };
    if let Some(fault) = fault {
        found.push(format!("8: {kind} call {id} {fault}: {runs:?}"));
    }
}

fn judge_job(id: u64, job: &JobEntry, runs: &[Run], found: &mut Vec<String>) {
    let fate = job.fate;
    let Some(end) = job.pushed else {
        found.push(format!("1: the push of job {id} has not ended"));
        return;
    };
    if job.took > job.timeout + SLACK {
        found.push(format!("1: the push of job {id} took {:?}", job.took));
    }
    let there = job.done + job.dead + job.kept;
    match end {
        End::Done if fate == Fate::Nowhere => {
            found.push(format!(
                "12: job {id} has no queue, and its push was confirmed"
            ));
        }
        End::Done if there == 0 => {
            let number = if fate == Fate::Kept { 12 } else { 4 };
            found.push(format!(
                "{number}: job {id} ({fate:?}) was confirmed and is lost"
            ));
        }
        End::NotDone if there > 0 || !runs.is_empty() => {
            found.push(format!("5: job {id} was said not to be stored, and was"));
        }
        _ => {}
    }
    if job.kept > 1 {
        found.push(format!("8: job {id} is there {} times", job.kept));
    }
    let first = runs
        .iter()
        .filter(|run| run.attempt == 1 && !run.redelivered);
    if first.count() > 1 {
        found.push(format!("8: job {id} has more than one first run: {runs:?}"));
    }
    if let Some(run) = runs.iter().find(|run| run.attempt > super::ATTEMPTS) {
        found.push(format!("10: job {id} had attempt {}", run.attempt));
    }
    if fate == Fate::Dead && job.done > 0 {
        found.push(format!("6: job {id} always fails, and was done"));
    }
}

/// The table at the end of a run.
impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = self.pages();
        let mut calls: BTreeMap<&str, [u32; 3]> = BTreeMap::new();
        for call in pages.calls.values() {
            let row = calls.entry(call.kind).or_default();
            match call.ended.map(|(end, _)| end) {
                Some(End::Done) => row[0] += 1,
                Some(End::NotDone) => row[1] += 1,
                Some(End::Unknown) => row[2] += 1,
                None => {}
            }
        }
        let mut jobs: BTreeMap<String, [u32; 3]> = BTreeMap::new();
        for job in pages.jobs.values() {
            let row = jobs.entry(format!("{:?}", job.fate)).or_default();
            match job.pushed {
                Some(End::Done) => row[0] += 1,
                Some(End::NotDone) => row[1] += 1,
                Some(End::Unknown) => row[2] += 1,
                None => {}
            }
        }
        writeln!(f, "                       done  not done   unknown")?;
        for (kind, [done, not, unknown]) in calls {
            writeln!(f, "  call {kind:<12} {done:>8}  {not:>8}  {unknown:>8}")?;
        }
        for (fate, [done, not, unknown]) in jobs {
            writeln!(f, "  job  {fate:<12} {done:>8}  {not:>8}  {unknown:>8}")?;
        }
        let faults: Vec<_> = pages
            .faults
            .iter()
            .map(|(k, n)| format!("{k} {n}"))
            .collect();
        writeln!(f, "  faults: {}", faults.join(", "))
    }
}

/// The judge must be able to say no.
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn numbers(book: &Book) -> Vec<String> {
        let found = book.violations();
        let mut numbers: Vec<_> = found
            .iter()
            .filter_map(|text| text.split(':').next().map(str::to_owned))
            .collect();
        numbers.dedup();
        numbers
    }

    #[test]
    fn a_good_run_is_good() {
        let book = Book::default();
        book.call(1, "plain", Runs::OncePerLoss, SECOND);
        book.call_run(1, false);
        book.call_run(1, true);
        book.call_ended(1, End::Done);
        book.push(1, Fate::Done, SECOND);
        book.pushed(1, End::Done);
        book.job_run(1, false, 1);
        book.job_done(1);
        book.push(2, Fate::Nowhere, SECOND);
        book.pushed(2, End::NotDone);
        assert_eq!(numbers(&book), [""; 0]);
    }

    #[test]
    fn each_wrong_of_a_call_is_seen() {
        type Story = fn(&Book);
        let stories: [(&str, Story); 8] = [
            ("1", |_| {}),
            ("11", |book| {
                book.hears(Sight::CallRun {
                    id: 1,
                    redelivered: false,
                    late: 2 * LATE,
                });
                book.call_ended(1, End::Unknown);
            }),
            ("1", |book| {
                book.call_ended(1, End::Unknown);
                book.call_ended(1, End::Unknown);
            }),
            ("2", |book| book.call_ended(1, End::Done)),
            ("2", |book| {
                book.call_run(1, false);
                book.call_ended(1, End::NotDone);
            }),
            ("5", |book| {
                book.call_run(7, false);
                book.call_ended(1, End::Unknown);
            }),
            ("8", |book| {
                book.call_run(1, false);
                book.call_run(1, false);
                book.call_ended(1, End::Done);
            }),
            ("3", |book| {
                book.complain("3: another's reply".into());
                book.call_ended(1, End::NotDone);
            }),
        ];
        for (number, story) in stories {
            let book = Book::default();
            book.call(1, "plain", Runs::OncePerLoss, SECOND);
            story(&book);
            assert_eq!(numbers(&book), [number]);
        }
    }

    #[test]
    fn each_wrong_of_a_job_is_seen() {
        type Story = fn(&Book);
        let stories: [(&str, Fate, Story); 8] = [
            ("1", Fate::Done, |_| {}),
            ("4", Fate::Done, |book| book.pushed(1, End::Done)),
            ("5", Fate::Done, |book| {
                book.pushed(1, End::NotDone);
                book.job_done(1);
            }),
            ("6", Fate::Dead, |book| {
                book.pushed(1, End::Done);
                book.job_done(1);
            }),
            ("8", Fate::Done, |book| {
                book.pushed(1, End::Done);
                book.job_run(1, false, 1);
                book.job_run(1, false, 1);
                book.job_done(1);
            }),
            ("10", Fate::Dead, |book| {
                book.pushed(1, End::Done);
                book.job_run(1, false, ATTEMPTS + 1);
                book.job_dead(1);
            }),
            ("12", Fate::Nowhere, |book| book.pushed(1, End::Done)),
            ("12", Fate::Kept, |book| book.pushed(1, End::Done)),
        ];
        for (number, fate, story) in stories {
            let book = Book::default();
            book.push(1, fate, SECOND);
            story(&book);
            assert_eq!(numbers(&book), [number]);
        }
    }
}
