//! The history of every call and every job, and the judge who reads it.
//!
//! The numbers are the invariants of docs/reliability.md.

use crate::streams::StreamBook;
use crate::uploads::UploadBook;
use lepus_tests::chaos_events::{PeerEvent, Recorder};
use lepus_tests::chaos_peers::ATTEMPTS;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A call or push may end this much after its deadline on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// A request that is in time when it comes may begin this much later.
const LATE: Duration = Duration::from_millis(200);

/// The end that its caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// It was done.
    Done,
    /// It certainly was not.
    NotDone,
    /// Nobody knows.
    Unknown,
    /// It was told nothing: it dropped the call.
    Dropped,
}

/// The number of times that a call may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Any,
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

/// The end that a job is to come to.
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
    /// The broker does not take such a message.
    Refused,
}

/// The queue that a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    Lasting,
    /// It is deleted now and then, with all that is in it, and so are those that belong to it.
    Deleted {
        /// The job is in this queue alone, since its first attempt succeeds.
        is_steady: bool,
    },
}

/// Other messages that may close the channel of a job. Lepus publishes again what such a
/// channel had no confirm for, and the broker may have had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Nothing.
    Own,
    /// The refusal of a job of the same burst, which has this number, to the same queue.
    Burst(u64, &'static str),
    /// The end of the exchange.
    Exchange,
}

/// A queue was deleted.
#[derive(Debug, Clone, Copy)]
struct Deletion {
    began: Instant,
    ended: Instant,
    /// The number of its messages, if it was one that is worked on.
    messages: Option<u64>,
}

#[derive(Debug)]
struct JobEntry {
    fate: Fate,
    home: Home,
    channel: Channel,
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
    deletions: Vec<Deletion>,
    exchange_deletions: Vec<(Instant, Instant)>,
    call_runs: BTreeMap<u64, Vec<Run>>,
    /// Calls whose handler was told that their caller has dropped them.
    cancelled: BTreeSet<u64>,
    job_runs: BTreeMap<u64, Vec<Run>>,
    faults: BTreeMap<&'static str, u32>,
    /// Jobs confirmed and not done, as far as that is known.
    backlog: i64,
    /// The number of times that a process lost all that it had in hand, and the jobs delivered to one again.
    lost_there: u64,
    redelivered_there: u64,
    /// Seen to be wrong at once.
    complaints: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
    pub streams: StreamBook,
    pub uploads: UploadBook,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no panic under a lock")
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

    pub fn call_cancelled(&self, id: u64) {
        self.pages().cancelled.insert(id);
    }

    /// Was a handler of the call told that its caller has dropped it?
    pub fn was_cancelled(&self, id: u64) -> bool {
        self.pages().cancelled.contains(&id)
    }

    /// The numbers of calls that were dropped, and of those of them whose handler was told.
    pub fn dropped(&self) -> (usize, usize) {
        let pages = self.pages();
        let ended = pages.calls.values().filter_map(|call| call.ended);
        let dropped = ended.filter(|(end, _)| *end == End::Dropped);
        (dropped.count(), pages.cancelled.len())
    }

    pub fn push(&self, id: u64, fate: Fate, timeout: Duration) {
        self.push_to(Home::Lasting, Channel::Own, id, fate, timeout);
    }

    pub fn push_to(&self, home: Home, channel: Channel, id: u64, fate: Fate, timeout: Duration) {
        let entry = JobEntry {
            fate,
            home,
            channel,
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
        if end == End::Done && job.is_to_be_done() {
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
        let mut is_to_be_done = true;
        self.with_job(id, |job| {
            job.done += 1;
            is_to_be_done = job.is_to_be_done();
        });
        if is_to_be_done {
            self.pages().backlog -= 1;
        }
    }

    /// A queue was deleted since `began`, with so many messages; `None` if it is one where jobs
    /// only wait, or lie when they are dead.
    pub fn deleted(&self, began: Instant, messages: Option<u64>) {
        let ended = Instant::now();
        self.pages().deletions.push(Deletion {
            began,
            ended,
            messages,
        });
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

    /// Notes a event of a process. Those that were frozen may begin anything late.
    pub fn process_told(&self, mut event: PeerEvent, was_frozen: bool) {
        match &mut event {
            PeerEvent::JobRun {
                redelivered: true, ..
            } => self.pages().redelivered_there += 1,
            PeerEvent::CallRun { late, .. } if was_frozen => *late = Duration::ZERO,
            PeerEvent::StreamRun { id } => return self.streams.run(*id, true),
            PeerEvent::UploadRun { id } => return self.uploads.run(*id, true),
            _ => {}
        }
        self.record(event);
    }

    /// The number of times that a process lost what it had in hand, and the jobs delivered to one again.
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
            |job: &&JobEntry| (job.pushed, job.done) == (Some(End::Done), 0) && job.is_to_be_done();
        pages.jobs.values().filter(waits).count()
    }

    /// The exchange of the events was deleted, since `began`.
    pub fn exchange_deleted(&self, began: Instant) {
        self.pages()
            .exchange_deletions
            .push((began, Instant::now()));
    }

    /// The number of runs of handlers of jobs.
    pub fn runs(&self) -> usize {
        self.pages().job_runs.values().map(Vec::len).sum()
    }

    /// The number of runs of the calls of a kind beyond two of each.
    pub fn runs_beyond_two(&self, kind: &str) -> u64 {
        let pages = self.pages();
        let calls = pages.calls.iter().filter(|(_, call)| call.kind == kind);
        let runs = calls.map(|(id, _)| pages.call_runs.get(id).map_or(0, Vec::len) as u64);
        runs.map(|runs| runs.saturating_sub(2)).sum()
    }

    /// The jobs that were lost with their queue, and how often one was deleted. Of the former as
    /// many as were in no other queue, and not on their way when it was deleted, were in it: it had
    /// so many, and so many more could be in hand at each deletion.
    pub fn lost_with_queues(&self, in_hand: u64) -> (usize, usize) {
        let mut pages = self.pages();
        let deletions = &pages.deletions;
        let lost: Vec<_> = pages
            .jobs
            .values()
            .filter(|job| job.is_lost() && job.was_deleted(deletions))
            .collect();
        let were_inside = lost.iter().filter(|job| job.was_inside(deletions)).count() as u64;
        let counted = deletions.iter().filter_map(|deletion| deletion.messages);
        let most: u64 = counted.map(|messages| messages + in_hand).sum();
        let seen = (lost.len(), deletions.len());
        if were_inside > most {
            let text =
                format!("4: {were_inside} jobs are lost with their queues, which had {most}");
            pages.complaints.push(text);
        }
        seen
    }

    /// Everything that should not be.
    pub fn violations(&self) -> Vec<String> {
        let pages = self.pages();
        let mut found = pages.complaints.clone();
        found.extend(self.streams.violations());
        found.extend(self.uploads.violations());
        for (id, call) in &pages.calls {
            let runs = pages.call_runs.get(id).map_or(&[][..], Vec::as_slice);
            judge_call(*id, call, runs, &mut found);
            let end = call.ended.map(|(end, _)| end);
            if end != Some(End::Dropped) && pages.cancelled.contains(id) {
                let kind = call.kind;
                found.push(format!(
                    "15: {kind} call {id} was cancelled, and its caller did not drop it: {end:?}"
                ));
            }
        }
        for id in pages.call_runs.keys().chain(&pages.cancelled) {
            if !pages.calls.contains_key(id) {
                found.push(format!("5: nobody called {id}, and it ran"));
            }
        }
        for (id, job) in &pages.jobs {
            let runs = pages.job_runs.get(id).map_or(&[][..], Vec::as_slice);
            judge_job(*id, job, runs, &pages, &mut found);
        }
        found
    }

    /// The numbers of runs beyond the first, of calls and of jobs.
    pub fn duplicates(&self) -> (u64, u64) {
        let pages = self.pages();
        let calls = pages.call_runs.values().map(|runs| runs.len() as u64 - 1);
        let again = |runs: &Vec<Run>| runs.iter().filter(|run| run.redelivered).count() as u64;
        (calls.sum(), pages.job_runs.values().map(again).sum())
    }
}

impl Recorder for Book {
    fn record(&self, event: PeerEvent) {
        match event {
            PeerEvent::CallRun {
                id,
                redelivered,
                late,
            } => {
                self.call_run(id, redelivered);
                if late > LATE {
                    self.complain(format!("11: call {id} began {late:?} after its deadline"));
                }
            }
            PeerEvent::CallCancelled { id } => self.call_cancelled(id),
            PeerEvent::StreamRun { id } => self.streams.run(id, false),
            PeerEvent::StreamEnded { id, sent } => self.streams.run_ended(id, sent),
            PeerEvent::UploadRun { id } => self.uploads.run(id, false),
            PeerEvent::UploadEnded { id, read, is_whole } => {
                self.uploads.run_ended(id, read, is_whole);
            }
            PeerEvent::JobRun {
                id,
                redelivered,
                attempt,
            } => self.job_run(id, redelivered, attempt),
            PeerEvent::JobDone { id } => self.job_done(id),
            PeerEvent::Wrong(what) => self.complain(what),
        }
    }
}

impl Pages {
    /// The number of times that a job may have been published again although the broker had it.
    fn times_published_again(&self, job: &JobEntry) -> usize {
        match job.channel {
            Channel::Own => 0,
            Channel::Burst(first, _) => {
                // Other actors take numbers meanwhile, but not so many.
                let burst = self.jobs.range(first..first + 10_000);
                let refused = burst.filter(|(_, other)| {
                    other.fate == Fate::Refused && other.channel == job.channel
                });
                refused.count()
            }
            Channel::Exchange => {
                let ended = job.began + job.took;
                let met = self.exchange_deletions.iter();
                met.filter(|(from, to)| *to > job.began && *from < ended)
                    .count()
            }
        }
    }
}

impl JobEntry {
    /// Whether it is waited for.
    fn is_to_be_done(&self) -> bool {
        (self.fate, self.home) == (Fate::Done, Home::Lasting)
    }

    /// Confirmed, and nowhere.
    fn is_lost(&self) -> bool {
        self.pushed == Some(End::Done) && self.done + self.dead + self.kept == 0
    }

    /// Whether its queue was deleted when it could be in it.
    fn was_deleted(&self, deletions: &[Deletion]) -> bool {
        let deleted = deletions.iter().any(|deletion| deletion.ended > self.began);
        self.home != Home::Lasting && deleted
    }

    /// Whether it was in the queue that is worked on, and counted, when that was deleted.
    fn was_inside(&self, deletions: &[Deletion]) -> bool {
        let is_steady = self.home == (Home::Deleted { is_steady: true });
        let ended = self.began + self.took;
        let mut met = deletions
            .iter()
            .filter(|deletion| deletion.ended > self.began && deletion.began < ended);
        is_steady && met.next().is_none()
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
    let fault = match call.runs {
        Runs::Any => None,
        Runs::Never => (times > 0).then_some("should never run"),
        Runs::AtMostOnce => (times > 1).then_some("runs at most once"),
    };
    if let Some(fault) = fault {
        found.push(format!("8: {kind} call {id} {fault}: {runs:?}"));
    }
}

fn judge_job(id: u64, job: &JobEntry, runs: &[Run], pages: &Pages, found: &mut Vec<String>) {
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
        End::Done if fate == Fate::Refused => {
            found.push(format!(
                "12: job {id} is none that the broker takes, and its push was confirmed"
            ));
        }
        End::Done if there == 0 && !job.was_deleted(&pages.deletions) => {
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
    if fate == Fate::Refused && there + u32::from(!runs.is_empty()) > 0 {
        found.push(format!(
            "5: job {id} is none that the broker takes, and ran"
        ));
    }
    if job.kept > 1 {
        found.push(format!("8: job {id} is there {} times", job.kept));
    }
    let first = runs
        .iter()
        .filter(|run| run.attempt == 1 && !run.redelivered);
    let first = first.count();
    // The second costs a walk through other jobs.
    if first > 1 && first > 1 + pages.times_published_again(job) {
        found.push(format!("8: job {id} has too many first runs: {runs:?}"));
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
        let mut calls: BTreeMap<&str, [u32; 4]> = BTreeMap::new();
        for call in pages.calls.values() {
            let row = calls.entry(call.kind).or_default();
            match call.ended.map(|(end, _)| end) {
                Some(End::Done) => row[0] += 1,
                Some(End::NotDone) => row[1] += 1,
                Some(End::Unknown) => row[2] += 1,
                Some(End::Dropped) => row[3] += 1,
                None => {}
            }
        }
        let mut jobs: BTreeMap<String, [u32; 3]> = BTreeMap::new();
        for job in pages.jobs.values() {
            let place = match job.home {
                Home::Lasting => "",
                Home::Deleted { .. } => ", deleted",
            };
            let row = jobs.entry(format!("{:?}{place}", job.fate)).or_default();
            match job.pushed {
                Some(End::Done) => row[0] += 1,
                Some(End::NotDone) => row[1] += 1,
                Some(End::Unknown) => row[2] += 1,
                Some(End::Dropped) | None => {}
            }
        }
        writeln!(
            f,
            "                        done  not done   unknown   dropped"
        )?;
        for (kind, [done, not, unknown, dropped]) in calls {
            writeln!(
                f,
                "  call {kind:<13} {done:>8}  {not:>8}  {unknown:>8}  {dropped:>8}"
            )?;
        }
        for (fate, [done, not, unknown]) in jobs {
            writeln!(f, "  job  {fate:<13} {done:>8}  {not:>8}  {unknown:>8}")?;
        }
        let faults: Vec<_> = pages
            .faults
            .iter()
            .map(|(k, n)| format!("{k} {n}"))
            .collect();
        writeln!(f, "{}\n{}", self.streams, self.uploads)?;
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
        book.call(1, "idempotent", Runs::Any, SECOND);
        book.call_run(1, false);
        book.call_run(1, true);
        book.call_ended(1, End::Done);
        book.call(2, "dropped", Runs::AtMostOnce, SECOND);
        book.call_run(2, false);
        book.record(PeerEvent::CallCancelled { id: 2 });
        book.call_ended(2, End::Dropped);
        assert_eq!(book.dropped(), (1, 1));
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
        let stories: [(&str, Story); 11] = [
            ("1", |_| {}),
            ("15", |book| {
                book.record(PeerEvent::CallCancelled { id: 1 });
                book.call_ended(1, End::Unknown);
            }),
            ("15", |book| {
                book.call_run(1, false);
                book.record(PeerEvent::CallCancelled { id: 1 });
                book.call_ended(1, End::Done);
            }),
            ("8", |book| {
                book.call_run(1, false);
                book.call_run(1, true);
                book.record(PeerEvent::CallCancelled { id: 1 });
                book.call_ended(1, End::Dropped);
            }),
            ("11", |book| {
                book.record(PeerEvent::CallRun {
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
            book.call(1, "plain", Runs::AtMostOnce, SECOND);
            story(&book);
            assert_eq!(numbers(&book), [number]);
        }
    }

    #[test]
    fn each_wrong_of_a_job_is_seen() {
        type Story = fn(&Book);
        let stories: [(&str, Fate, Story); 11] = [
            ("1", Fate::Done, |_| {}),
            ("5", Fate::Refused, |book| {
                book.pushed(1, End::Unknown);
                book.job_run(1, false, 1);
            }),
            ("12", Fate::Refused, |book| book.pushed(1, End::Done)),
            // Another queue was deleted.
            ("4", Fate::Done, |book| {
                book.pushed(1, End::Done);
                book.deleted(Instant::now(), Some(1));
            }),
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

    #[test]
    fn what_a_deleted_queue_had_is_lost_with_it_and_nothing_else() {
        let steady = Home::Deleted { is_steady: true };
        let confirm = |book: &Book, id| {
            book.push_to(steady, Channel::Own, id, Fate::Done, SECOND);
            book.pushed(id, End::Done);
        };
        let judge = |book: &Book, in_hand| {
            let lost = book.lost_with_queues(in_hand);
            (lost, numbers(book))
        };

        // Two in the queue, of which one is worked on.
        let book = Book::default();
        confirm(&book, 1);
        confirm(&book, 2);
        book.deleted(Instant::now(), Some(1));
        assert_eq!(judge(&book, 1), ((2, 1), vec![]));
        assert_eq!((book.unfinished(), book.is_behind()), (0, false));

        // The broker says that it had one, and nobody can have the other one.
        assert_eq!(judge(&book, 0), ((2, 1), vec!["4".to_owned()]));

        // Confirmed after the queue was deleted for the last time.
        let book = Book::default();
        book.deleted(Instant::now(), Some(1));
        confirm(&book, 1);
        assert_eq!(judge(&book, 1), ((0, 1), vec!["4".to_owned()]));

        // It was one where nobody takes steady jobs from.
        let book = Book::default();
        confirm(&book, 1);
        book.deleted(Instant::now(), None);
        assert_eq!(judge(&book, 1), ((1, 1), vec!["4".to_owned()]));

        // On its way to the queue, it may be confirmed for that, and in no count.
        let book = Book::default();
        book.push_to(steady, Channel::Own, 1, Fate::Done, SECOND);
        let began = Instant::now();
        book.pushed(1, End::Done);
        book.deleted(began, Some(0));
        assert_eq!(judge(&book, 0), ((1, 1), vec![]));

        // Told not to be stored, and done.
        let book = Book::default();
        book.push_to(steady, Channel::Own, 1, Fate::Done, SECOND);
        book.pushed(1, End::NotDone);
        book.job_run(1, false, 1);
        book.job_done(1);
        book.deleted(Instant::now(), Some(0));
        assert_eq!(judge(&book, 0), ((0, 1), vec!["5".to_owned()]));
    }

    #[test]
    fn runs_beyond_two_are_counted() {
        let book = Book::default();
        for (id, runs) in [(1, 0), (2, 2), (3, 5)] {
            book.call(id, "growing", Runs::Any, SECOND);
            for _ in 0..runs {
                book.call_run(id, true);
            }
        }
        book.call(4, "plain", Runs::Any, SECOND);
        (0..9).for_each(|_| book.call_run(4, true));
        assert_eq!(book.runs_beyond_two("growing"), 3);
    }

    #[test]
    fn only_what_met_a_refusal_is_there_twice() {
        let run_twice = |book: &Book, id| {
            book.pushed(id, End::Done);
            book.job_run(id, false, 1);
            book.job_run(id, false, 1);
            book.job_done(id);
        };
        let push = |book: &Book, channel, id, fate| {
            book.push_to(Home::Lasting, channel, id, fate, SECOND);
        };
        let stories = [
            (Channel::Burst(1, "jobs"), vec![]),
            (Channel::Burst(1, "killed"), vec!["8"]),
            (Channel::Burst(2, "jobs"), vec!["8"]),
            (Channel::Own, vec!["8"]),
            (Channel::Exchange, vec!["8"]),
        ];
        for (channel, expected) in stories {
            let book = Book::default();
            push(&book, Channel::Burst(1, "jobs"), 1, Fate::Refused);
            push(&book, channel, 2, Fate::Done);
            book.pushed(1, End::NotDone);
            run_twice(&book, 2);
            assert_eq!(numbers(&book), expected, "{channel:?}");
        }
        let book = Book::default();
        push(&book, Channel::Exchange, 1, Fate::Done);
        let began = Instant::now();
        run_twice(&book, 1);
        book.exchange_deleted(began);
        assert_eq!(numbers(&book), [""; 0]);
        push(&book, Channel::Exchange, 2, Fate::Done);
        run_twice(&book, 2);
        assert_eq!(numbers(&book), ["8"]);
    }
}
