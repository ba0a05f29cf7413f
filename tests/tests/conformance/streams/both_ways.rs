//! Methods that take a stream and return one.

use super::{LONG, SHORT, code, read};
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Code, Connection, Incoming, Running, Server, Status};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance, eventually};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

conformance!(
    each_line_gets_an_answer,
    answers_go_on_behind_the_last_line,
    lines_are_sent_while_nobody_reads,
    both_windows_are_kept,
    the_end_of_the_answers_stops_the_lines,
    a_method_that_reads_no_more_goes_on,
    a_reader_that_leaves_cancels_both,
    a_stream_of_lines_that_panics_ends_the_answers,
    a_lost_connection_ends_both,
    a_shutdown_ends_both,
    an_implementation_in_this_process_talks_too,
    the_description_tells_that_items_go_both_ways,
);

type Lines = Pin<Box<dyn Stream<Item = String> + Send>>;

#[lepus::service(name = "talker")]
trait Talker {
    /// Each line with this before it, up to an empty one.
    fn talk(&self, before: String, lines: Incoming<String>) -> impl Stream<Item = String>;
    /// The number of lines, and then so many numbers.
    fn count(&self, lines: Incoming<String>, to: u64) -> impl Stream<Item = Result<u64, Status>>;
    /// The first line, and then numbers without an end.
    fn first(&self, lines: Incoming<String>) -> impl Stream<Item = String>;
    /// A plain call.
    async fn echo(&self, text: String) -> String;
}

/// The implementation, with what it has seen.
#[derive(Debug, Default)]
struct Subject {
    running: AtomicU64,
    read: Arc<AtomicU64>,
}

/// A method that runs.
struct Talking<'a>(&'a Subject);

impl<'a> Talking<'a> {
    fn of(subject: &'a Subject) -> Self {
        subject.running.fetch_add(1, Ordering::SeqCst);
        Self(subject)
    }
}

impl Drop for Talking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Talker for Subject {
    fn talk(&self, before: String, lines: Incoming<String>) -> impl Stream<Item = String> {
        let talking = Talking::of(self);
        let lines = lines.take_while(|line| {
            let goes_on = line.as_ref().is_ok_and(|line| !line.is_empty());
            std::future::ready(goes_on)
        });
        lines.map(move |line| {
            talking.0.read.fetch_add(1, Ordering::SeqCst);
            format!("{before}{}", line.unwrap())
        })
    }

    fn count(&self, lines: Incoming<String>, to: u64) -> impl Stream<Item = Result<u64, Status>> {
        let counted = lines.fold(0, async |count, line| count + u64::from(line.is_ok()));
        let numbers = stream::iter(0..to).map(Ok);
        let end = Status::new(Code::OutOfRange, "no more");
        stream::once(counted)
            .map(Ok)
            .chain(numbers)
            .chain(stream::iter([Err(end)]))
    }

    fn first(&self, lines: Incoming<String>) -> impl Stream<Item = String> {
        let talking = Talking::of(self);
        stream::unfold(
            (talking, Some(lines), 0),
            async |(talking, lines, number)| {
                let Some(mut lines) = lines else {
                    let text = number.to_string();
                    return Some((text, (talking, None, number + 1)));
                };
                let line = lines.next().await?.ok()?;
                Some((line, (talking, None, number)))
            },
        )
    }

    async fn echo(&self, text: String) -> String {
        text
    }
}

struct Fixture {
    serving: Connection,
    calling: Connection,
    server: Running,
    subject: Arc<Subject>,
    talker: TalkerClient,
    /// The lines that were asked of streams, and the streams that are not dropped.
    asked: Arc<AtomicU64>,
    open: Arc<()>,
}

impl Fixture {
    async fn start(env: &Env) -> Self {
        Self::over(env, env.connect().await, env.connect().await).await
    }

    async fn over(env: &Env, serving: Connection, calling: Connection) -> Self {
        env.name("talker");
        let subject = Arc::new(Subject::default());
        let server = Server::new(&serving).serve(TalkerServer::from_arc(Arc::clone(&subject)));
        Self {
            server: server.start().await.unwrap(),
            talker: TalkerClient::new(&calling),
            serving,
            calling,
            subject,
            asked: Arc::default(),
            open: Arc::default(),
        }
    }

    /// The numbers from 0 as lines.
    fn lines(&self, to: u64) -> Lines {
        let (asked, open) = (Arc::clone(&self.asked), Arc::clone(&self.open));
        Box::pin(stream::iter(0..to).map(move |number| {
            // All of it, so that it is dropped with the stream.
            let _ = &open;
            asked.fetch_add(1, Ordering::SeqCst);
            number.to_string()
        }))
    }

    /// The same, without an end.
    fn endless(&self, to: u64) -> Lines {
        Box::pin(self.lines(to).chain(stream::pending()))
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    async fn lines_are_dropped(&self) {
        eventually("the lines are dropped", || async {
            Arc::strong_count(&self.open) == 1
        })
        .await;
    }

    async fn is_at_rest(&self) {
        eventually("nothing is left", || async {
            let running = self.subject.running.load(Ordering::SeqCst);
            running + self.serving.stats().open_streams + self.calling.stats().open_streams == 0
        })
        .await;
        self.lines_are_dropped().await;
    }

    async fn is_well(&self) {
        assert_eq!(self.talker.echo("well".into()).await.unwrap(), "well");
    }
}

fn answers(to: u64) -> Vec<String> {
    (0..to).map(|number| format!("> {number}")).collect()
}

async fn each_line_gets_an_answer(env: Env) {
    let fixture = Fixture::start(&env).await;
    for to in [0, 1, 32, 33, 1000] {
        let talk = fixture.talker.talk("> ".into(), fixture.lines(to));
        let (lines, error) = read(talk.await.unwrap()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(lines, answers(to));
    }
    // One after the other: a line is sent when the answer to the one before has come.
    let (sender, mut lines) = mpsc::channel::<String>(1);
    let lines = stream::poll_fn(move |cx| lines.poll_recv(cx));
    let mut talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
    for number in 0..50 {
        sender.send(number.to_string()).await.unwrap();
        let answer = talk.next().await.unwrap().unwrap();
        assert_eq!(answer, format!("> {number}"));
    }
    drop(sender);
    assert!(talk.next().await.is_none());
    fixture.is_at_rest().await;
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
}

async fn answers_go_on_behind_the_last_line(env: Env) {
    let fixture = Fixture::start(&env).await;
    let mut count = fixture
        .talker
        .count(fixture.lines(100), 200)
        .window(4)
        .await
        .unwrap();
    assert_eq!(count.next().await.unwrap().unwrap(), 100);
    fixture.lines_are_dropped().await;
    let (numbers, error) = read(count).await;
    assert!(numbers.into_iter().eq(0..200));
    assert_eq!(code(error), Code::OutOfRange);
    fixture.is_at_rest().await;
}

async fn lines_are_sent_while_nobody_reads(env: Env) {
    let fixture = Fixture::start(&env).await;
    let count = fixture.talker.count(fixture.lines(500), 0).await.unwrap();
    eventually("all lines are sent", || async { fixture.asked() == 500 }).await;
    fixture.lines_are_dropped().await;
    let (numbers, error) = read(count).await;
    assert_eq!((numbers, code(error)), (vec![500], Code::OutOfRange));
    fixture.is_at_rest().await;
}

async fn both_windows_are_kept(env: Env) {
    let fixture = Fixture::start(&env).await;
    let talk = fixture
        .talker
        .talk("> ".into(), fixture.lines(1000))
        .window(10);
    let mut talk = talk.await.unwrap();
    // The answers are not read, so that the method does not read either.
    let read = || fixture.subject.read.load(Ordering::SeqCst);
    eventually("both windows are full", || async {
        read() == 10 && fixture.asked() == 32
    })
    .await;
    fixture.is_well().await;
    assert_eq!((read(), fixture.asked()), (10, 32));
    for number in 0..1000 {
        assert_eq!(talk.next().await.unwrap().unwrap(), format!("> {number}"));
        // 16 lines are granted at once, and so are 5 answers.
        assert!(fixture.asked() <= number + 1 + 10 + 32);
    }
    assert!(talk.next().await.is_none());
    fixture.is_at_rest().await;
}

async fn the_end_of_the_answers_stops_the_lines(env: Env) {
    let fixture = Fixture::start(&env).await;
    let lines = stream::iter(["one", "two", ""]).map(str::to_owned);
    let lines = lines.chain(fixture.endless(3));
    let talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
    // Even before the end is read.
    fixture.lines_are_dropped().await;
    let (lines, error) = read(talk).await;
    assert!(error.is_none() && lines == ["> one", "> two"], "{lines:?}");
    fixture.is_at_rest().await;
}

async fn a_method_that_reads_no_more_goes_on(env: Env) {
    let fixture = Fixture::start(&env).await;
    let lines = fixture.endless(1000);
    let mut first = fixture.talker.first(lines).window(4).await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "0");
    fixture.lines_are_dropped().await;
    for number in 0..100 {
        assert_eq!(first.next().await.unwrap().unwrap(), number.to_string());
    }
    drop(first);
    fixture.is_at_rest().await;
}

async fn a_reader_that_leaves_cancels_both(env: Env) {
    let fixture = Fixture::start(&env).await;
    let lines = fixture.endless(5);
    let mut talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
    assert_eq!(talk.next().await.unwrap().unwrap(), "> 0");
    drop(talk);
    fixture.is_at_rest().await;
    fixture.is_well().await;
    let lines = fixture.endless(0);
    let quiet = fixture.talker.talk("> ".into(), lines).idle(SHORT);
    let (none, error) = read(quiet.await.unwrap()).await;
    assert!(none.is_empty() && error.unwrap().is_timeout());
    fixture.is_at_rest().await;
}

async fn a_stream_of_lines_that_panics_ends_the_answers(env: Env) {
    let fixture = Fixture::start(&env).await;
    let lines = fixture.lines(10).inspect(|line| {
        if line == "3" {
            // Without the hook, which would print it.
            std::panic::resume_unwind(Box::new("a stream panics"));
        }
    });
    let talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
    let (_, error) = read(talk).await;
    let error = error.unwrap();
    assert!(error.is_encode(), "{error}");
    assert!(format!("{error:?}").contains("panic"), "{error:?}");
    fixture.is_at_rest().await;
}

async fn a_lost_connection_ends_both(env: Env) {
    for is_caller in [true, false] {
        let (proxy, lost) = env.proxied().await;
        let other = env.connect().await;
        let (serving, calling) = match is_caller {
            true => (other, lost),
            false => (lost, other),
        };
        let fixture = Fixture::over(&env, serving, calling).await;
        let lines = fixture.endless(5);
        let mut talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
        for _ in 0..5 {
            talk.next().await.unwrap().unwrap();
        }
        proxy.cut(Cut::Rst);
        let told = tokio::time::timeout(LONG, read(talk)).await;
        let (none, error) = told.expect("a probe");
        let error = error.unwrap();
        assert!(none.is_empty() && error.is_disconnected(), "{error}");
        let report = format!("{:?}", error.rpc().unwrap());
        assert!(report.contains("after 5 items"), "{report}");
        fixture.is_at_rest().await;
        fixture.server.stop().await.unwrap();
    }
}

async fn a_shutdown_ends_both(env: Env) {
    let fixture = Fixture::start(&env).await;
    let lines = fixture.endless(5);
    let talk = fixture.talker.talk("> ".into(), lines).await.unwrap();
    eventually("five are read", || async {
        fixture.subject.read.load(Ordering::SeqCst) == 5
    })
    .await;
    fixture.server.stop().await.unwrap();
    let (lines, error) = read(talk).await;
    assert_eq!((lines, code(error)), (answers(5), Code::Unavailable));
    eventually("the lines are dropped", || async {
        Arc::strong_count(&fixture.open) == 1
    })
    .await;
}

/// It needs no broker, but it is the same for both.
async fn an_implementation_in_this_process_talks_too(env: Env) {
    let fixture = Fixture::start(&env).await;
    let server = TalkerServer::from_arc(Arc::clone(&fixture.subject));
    let talker = TalkerClient::from(lepus::rpc::Client::local(server));
    for to in [0, 1, 33, 1000] {
        let talk = talker.talk("> ".into(), fixture.lines(to)).window(3);
        let (lines, error) = read(talk.await.unwrap()).await;
        assert!(error.is_none() && lines == answers(to), "{error:?}");
    }
    let (numbers, error) = read(talker.count(fixture.lines(70), 3).await.unwrap()).await;
    assert_eq!(
        (numbers, code(error)),
        (vec![70, 0, 1, 2], Code::OutOfRange)
    );
    let mut first = talker.first(fixture.endless(9)).await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "0");
    fixture.lines_are_dropped().await;
    assert_eq!(first.next().await.unwrap().unwrap(), "0");
    drop(first);
    let talk = talker.talk("> ".into(), fixture.endless(3)).await.unwrap();
    drop(talk);
    fixture.is_at_rest().await;
}

async fn the_description_tells_that_items_go_both_ways(env: Env) {
    let fixture = Fixture::start(&env).await;
    let discovery = lepus::Discovery::new(&fixture.calling);
    // Its control queue is declared after its start.
    let info = eventually("the server answers", || async {
        discovery.info("talker").expect(1).await.unwrap().pop()
    })
    .await;
    for (name, stream) in [("talk", Some("both")), ("echo", None)] {
        let endpoint = info.endpoints.iter().find(|endpoint| endpoint.name == name);
        assert_eq!(endpoint.unwrap().data.stream.as_deref(), stream, "{name}");
    }
}
