//! The servers and workers of the random run, in the test's process or in one of their own; a recorder is told what they
//! do.

use crate::chaos_events::{PeerEvent, Recorder};
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{
    Code, Connection, Context, Event, Incoming, Job, RetryPolicy, Running, Server, Topic,
    WorkQueue, jobs::JobError, reject,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The largest message of a run, in bytes.
pub const LIMIT: usize = 256 * 1024;
/// The largest message that the broker of a run takes, in bytes, where that can be set.
pub const BROKER_LIMIT: usize = 100_000;
/// A message of this size is refused by the broker alone.
pub const OVERSIZE: usize = 120_000;
/// The number of streams that a server has at most: few, so that some are refused.
pub const STREAMS: usize = 16;
/// Attempts at a job. Those that a lost worker costs count too.
pub const ATTEMPTS: u32 = 40;
/// The longest pause between attempts to reconnect.
pub const CAP: Duration = Duration::from_millis(500);

#[lepus::service(name = "chaos")]
pub trait Chaos {
    async fn plain(&self, id: u64, text: String) -> (u64, String);
    #[rpc(idempotent)]
    async fn again(&self, id: u64, text: String) -> (u64, String);
    #[rpc(at_most_once)]
    async fn once(&self, id: u64, text: String) -> (u64, String);
    async fn fails(&self, id: u64) -> Result<(), String>;
    async fn panics(&self, id: u64);
    async fn hangs(&self, id: u64);
    /// Its reply is larger than the broker takes.
    async fn grows(&self, id: u64) -> String;
    /// So many items: the id of the stream, and a number from 0 on. Some streams end with an error of their own.
    fn numbered(&self, id: u64, length: u64) -> impl Stream<Item = Result<(u64, u64), OwnEnd>>;
    /// Reads so many items at most, and answers with their number, or with an error of its own.
    async fn gathered(
        &self,
        id: u64,
        most: u64,
        items: Incoming<(u64, u64)>,
    ) -> Result<u64, OwnEnd>;
    /// The items as they come. Some streams end with an error of their own.
    fn echoed(
        &self,
        id: u64,
        items: Incoming<(u64, u64)>,
    ) -> impl Stream<Item = Result<(u64, u64), OwnEnd>>;
}

/// The own error at the end of some streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnEnd {
    pub id: u64,
}

impl OwnEnd {
    /// Whether a stream has it.
    pub fn is_of(id: u64) -> bool {
        id.is_multiple_of(3)
    }

    fn at_the_end_of(id: u64) -> Result<(), OwnEnd> {
        if OwnEnd::is_of(id) {
            Err(OwnEnd { id })
        } else {
            Ok(())
        }
    }
}

/// Whether the end of a stream is the loss of a connection, or the end of a server.
pub fn is_fault(error: &lepus::Error) -> bool {
    let is_status = error
        .code()
        .is_some_and(|code| matches!(code, Code::Unavailable | Code::Aborted));
    error.is_disconnected() || is_status
}

/// Counts the handlers at work, of which there are never more than may be.
struct Places {
    at_work: AtomicU32,
    most: u16,
}

struct Place<'a>(&'a Places);

impl Places {
    fn take<'a>(&'a self, recorder: &dyn Recorder) -> Place<'a> {
        let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        if now > u32::from(self.most) {
            let most = self.most;
            recorder.record(PeerEvent::Wrong(format!(
                "9: {now} handlers at work, of {most}"
            )));
        }
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Serving {
    recorder: Arc<dyn Recorder>,
    places: Places,
}

/// A handler of a call, from its start to its end.
struct Called<'a> {
    serving: &'a Serving,
    id: u64,
    context: Context,
    _place: Place<'a>,
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        if self.context.is_cancelled() {
            let id = self.id;
            self.serving
                .recorder
                .record(PeerEvent::CallCancelled { id });
        }
    }
}

/// A stream of the method, from its start to its end.
struct Streamed<'a> {
    serving: &'a Serving,
    id: u64,
    sent: u64,
}

impl Drop for Streamed<'_> {
    fn drop(&mut self) {
        let (id, sent) = (self.id, self.sent);
        self.serving
            .recorder
            .record(PeerEvent::StreamEnded { id, sent });
    }
}

/// The items of an upload, from the start of its method to its end.
struct Uploaded<'a> {
    serving: &'a Serving,
    id: u64,
    items: Incoming<(u64, u64)>,
    is_whole: bool,
}

impl Drop for Uploaded<'_> {
    fn drop(&mut self) {
        let (id, read, is_whole) = (self.id, self.items.items(), self.is_whole);
        self.serving
            .recorder
            .record(PeerEvent::UploadEnded { id, read, is_whole });
    }
}

impl Uploaded<'_> {
    /// The next item, which is looked at; `None` when the caller has sent all.
    async fn next(&mut self) -> Option<(u64, u64)> {
        let (id, due) = (self.id, self.items.items());
        match self.items.next().await {
            Some(Ok(item)) => {
                if item != (id, due) {
                    let (of, number) = item;
                    self.complain(format!("got item {number} of upload {of} after {due}"));
                }
                Some(item)
            }
            Some(Err(error)) => {
                if !is_fault(&error) && error.code() != Some(Code::Cancelled) {
                    self.complain(format!("is ended by {error} after {due} items"));
                }
                // The runtime drops a method that was told of an error.
                std::future::pending().await
            }
            None => {
                self.is_whole = true;
                None
            }
        }
    }

    fn complain(&self, text: String) {
        let wrong = PeerEvent::Wrong(format!("18: upload {} {text}", self.id));
        self.serving.recorder.record(wrong);
    }
}

impl Serving {
    fn upload(&self, id: u64, items: Incoming<(u64, u64)>) -> Uploaded<'_> {
        self.recorder.record(PeerEvent::UploadRun { id });
        Uploaded {
            serving: self,
            id,
            items,
            is_whole: false,
        }
    }

    fn begin(&self, id: u64) -> Called<'_> {
        Called {
            serving: self,
            id,
            context: Context::current(),
            _place: self.places.take(&*self.recorder),
        }
    }

    async fn run(&self, id: u64) {
        let context = Context::current();
        let late = context.deadline().map(|deadline| deadline.elapsed());
        self.recorder.record(PeerEvent::CallRun {
            id,
            redelivered: context.redelivered(),
            late: late.unwrap_or_default(),
        });
        // Some pretend to work for a while, so that faults meet them at work. No check depends on the length.
        if id.is_multiple_of(4) {
            tokio::time::sleep(Duration::from_millis(id % 50)).await;
        }
    }
}

impl Chaos for Serving {
    async fn plain(&self, id: u64, text: String) -> (u64, String) {
        let _called = self.begin(id);
        self.run(id).await;
        (id, text)
    }

    async fn again(&self, id: u64, text: String) -> (u64, String) {
        let _called = self.begin(id);
        self.run(id).await;
        (id, text)
    }

    async fn once(&self, id: u64, text: String) -> (u64, String) {
        let _called = self.begin(id);
        self.run(id).await;
        (id, text)
    }

    async fn fails(&self, id: u64) -> Result<(), String> {
        let _called = self.begin(id);
        self.run(id).await;
        Err(id.to_string())
    }

    async fn panics(&self, id: u64) {
        let _called = self.begin(id);
        self.run(id).await;
        // Not `panic!`: a run has thousands, and nobody wants their backtraces.
        std::panic::resume_unwind(Box::new("on purpose"));
    }

    async fn hangs(&self, id: u64) {
        let _called = self.begin(id);
        self.run(id).await;
        std::future::pending().await
    }

    async fn grows(&self, id: u64) -> String {
        let _called = self.begin(id);
        self.run(id).await;
        "x".repeat(OVERSIZE)
    }

    fn numbered(&self, id: u64, length: u64) -> impl Stream<Item = Result<(u64, u64), OwnEnd>> {
        self.recorder.record(PeerEvent::StreamRun { id });
        let (serving, sent) = (self, 0);
        let mut streamed = Streamed { serving, id, sent };
        let items = stream::iter(0..length).map(move |number| {
            // All of it, so that it is dropped with the stream.
            let streamed = &mut streamed;
            streamed.sent += 1;
            Ok((streamed.id, number))
        });
        let end = OwnEnd::at_the_end_of(id).err().map(Err);
        items.chain(stream::iter(end))
    }

    async fn gathered(
        &self,
        id: u64,
        most: u64,
        items: Incoming<(u64, u64)>,
    ) -> Result<u64, OwnEnd> {
        let mut upload = self.upload(id, items);
        while upload.items.items() < most && upload.next().await.is_some() {}
        OwnEnd::at_the_end_of(id)?;
        Ok(upload.items.items())
    }

    fn echoed(
        &self,
        id: u64,
        items: Incoming<(u64, u64)>,
    ) -> impl Stream<Item = Result<(u64, u64), OwnEnd>> {
        self.recorder.record(PeerEvent::StreamRun { id });
        let (serving, sent) = (self, 0);
        let begun = (self.upload(id, items), Streamed { serving, id, sent });
        let items = stream::unfold(begun, async |(mut upload, mut streamed)| {
            let item = upload.next().await?;
            streamed.sent += 1;
            Some((Ok(item), (upload, streamed)))
        });
        let end = OwnEnd::at_the_end_of(id).err().map(Err);
        items.chain(stream::iter(end))
    }
}

/// Calls, until stopped.
///
/// # Errors
/// The link was lost meanwhile.
pub async fn serve(
    connection: &Connection,
    concurrency: u16,
    recorder: Arc<dyn Recorder>,
) -> Result<Running, lepus::Error> {
    let (at_work, most) = (AtomicU32::new(0), concurrency);
    let serving = Serving {
        recorder,
        places: Places { at_work, most },
    };
    let service = ChaosServer::new(serving).concurrency(concurrency);
    // Few, so that some are refused.
    let server = Server::new(connection).serve(service).streams(STREAMS);
    server.start().await
}

/// A job, and how it goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub id: u64,
    pub fate: Going,
    /// Empty, or so much that the broker refuses the message.
    pub padding: String,
}

impl Task {
    pub fn new(id: u64, fate: Going) -> Task {
        let padding = String::new();
        Task { id, fate, padding }
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Going {
    Well,
    /// Not at the first attempts.
    Later(u32),
    Panics,
    Never,
}

/// The queues of a run.
#[derive(Debug, Clone)]
pub struct Queues {
    pub main: WorkQueue<Task>,
    /// For those who work in processes of their own, and are killed.
    pub killed: WorkQueue<Task>,
    /// Deleted, and declared with other arguments, now and then: a quorum queue.
    pub doomed: WorkQueue<Task>,
    /// The same, a classic queue.
    pub fleeting: WorkQueue<Task>,
    /// Nobody works on it, and it is soon full.
    pub narrow: WorkQueue<Task>,
    pub nowhere: WorkQueue<Task>,
}

impl Default for Queues {
    fn default() -> Queues {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(80));
        let policy = RetryPolicy::default()
            .attempts(ATTEMPTS)
            .backoff(first, longest)
            .jitter(0.0);
        Queues {
            main: WorkQueue::new("jobs").retry(policy.clone()),
            killed: WorkQueue::new("killed").retry(policy.clone()),
            doomed: WorkQueue::new("doomed").retry(policy.clone()),
            fleeting: WorkQueue::new("fleeting").classic().retry(policy),
            narrow: WorkQueue::new("narrow").classic().max_length(50),
            nowhere: WorkQueue::new("nowhere").passive(),
        }
    }
}

/// Deleted, and declared as of another type, now and then. What it has routed is in the queue of
/// its group, which stays.
pub fn events() -> Topic<Task> {
    Topic::new("events")
}

/// The group that has all events, and the key of each.
pub const GROUP: &str = "crew";
pub const KEY: &str = "task";

/// Events of the group, until stopped.
///
/// # Errors
/// The link was lost meanwhile.
pub async fn attend(
    connection: &Connection,
    concurrency: u16,
    recorder: Arc<dyn Recorder>,
) -> Result<Running, lepus::Error> {
    let (at_work, most) = (AtomicU32::new(0), concurrency);
    let places = Arc::new(Places { at_work, most });
    let handler = move |event: Event<Task>| {
        let (recorder, places) = (Arc::clone(&recorder), Arc::clone(&places));
        async move {
            let _place = places.take(&*recorder);
            let id = event.payload().id;
            recorder.record(PeerEvent::JobRun {
                id,
                redelivered: event.redelivered(),
                attempt: event.attempt(),
            });
            if id.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(id % 20)).await;
            }
            recorder.record(PeerEvent::JobDone { id });
        }
    };
    let members = events().subscribe(connection).bind(KEY).shared(GROUP);
    members.concurrency(concurrency).start(handler).await
}

/// Jobs of one queue, until stopped.
///
/// # Errors
/// The link was lost meanwhile.
pub async fn work(
    connection: &Connection,
    queue: &WorkQueue<Task>,
    concurrency: u16,
    recorder: Arc<dyn Recorder>,
) -> Result<Running, lepus::Error> {
    let (at_work, most) = (AtomicU32::new(0), concurrency);
    let places = Arc::new(Places { at_work, most });
    let handler = move |job: Job<Task>| {
        let (recorder, places) = (Arc::clone(&recorder), Arc::clone(&places));
        async move {
            let _place = places.take(&*recorder);
            let Task { id, fate, .. } = *job.payload();
            recorder.record(PeerEvent::JobRun {
                id,
                redelivered: job.redelivered(),
                attempt: job.attempt(),
            });
            if id.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(id % 20)).await;
            }
            match fate {
                Going::Never => return Err(reject("never")),
                Going::Later(times) if job.attempt() <= times => {
                    return Err(lepus::retry("later"));
                }
                Going::Panics if job.attempt() == 1 => {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                _ => {}
            }
            recorder.record(PeerEvent::JobDone { id });
            Ok::<(), JobError>(())
        }
    };
    let pool = queue.worker(connection).concurrency(concurrency);
    pool.start(handler).await
}
