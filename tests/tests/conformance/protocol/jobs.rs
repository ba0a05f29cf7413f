//! Jobs, their retries and their dead letters, both ways.

use super::fixture::WireFixture;
use super::golden::Message;
use lepus::{Job, RetryPolicy, WorkQueue, jobs::JobError, reject, retry};
use lepus_tests::{Env, conformance};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Resize {
    image: u64,
    width: u32,
}

const JOB: Resize = Resize {
    image: 7,
    width: 640,
};

#[lepus::tasks(name = "images", codec = "json")]
trait Images {
    async fn resize(&self, image: u64, width: u32) -> Result<(), String>;
}

conformance!(
    queues_are_declared_as_the_page_says,
    a_push_is_the_golden_job,
    a_failed_job_is_the_golden_retry,
    a_rejected_job_is_the_golden_dead_letter,
    golden_messages_are_read,
    a_long_error_costs_nobody_anything,
);

fn queue() -> WorkQueue<Resize> {
    let slowly = RetryPolicy::default()
        .backoff(Duration::from_secs(30), Duration::from_secs(30))
        .jitter(0.0);
    WorkQueue::new("resize").retry(slowly)
}

const QUEUES: &[&str] = &["resize", "resize.dead"];
const ALL_QUEUES: &[&str] = &["resize", "resize.dead", "resize.retry.30000"];

async fn queues_are_declared_as_the_page_says(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let producer = queue().producer(&fixture.connection);
    let delayed = producer.push(&JOB).delay(Duration::from_millis(20_001));
    delayed.await.expect("it waits");
    for queue in ALL_QUEUES {
        fixture.assert_declared(&env, queue).await;
    }
    fixture.end(ALL_QUEUES).await;
}

async fn a_push_is_the_golden_job(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let producer = queue().producer(&fixture.connection);
    producer.push(&JOB).await.expect("it is stored");
    fixture.expect("resize", "job").await;
    let images = ImagesProducer::new(&fixture.connection);
    images.resize(7, 640).await.expect("it is stored");
    fixture.expect("images", "job.task").await;
    fixture
        .end(&["resize", "resize.dead", "images", "images.dead"])
        .await;
}

async fn a_failed_job_is_the_golden_retry(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let fail = async |_: Job<Resize>| Err::<(), JobError>(retry("the store is busy"));
    let running = queue().worker(&fixture.connection).start(fail).await;
    let running = running.expect("it works");
    fixture.send("resize", "job").await;
    // Before the queue is there, a look at it would close the channel.
    let waiting = fixture.name("resize.retry.30000");
    fixture.raw.first_message(&waiting).await;
    let seen = fixture.expect("resize.retry.30000", "job.retry").await;
    assert_eq!(seen.fields["expiration"], "30000");
    running.stop().await.expect("it drains");
    fixture.end(ALL_QUEUES).await;
}

async fn a_rejected_job_is_the_golden_dead_letter(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let fail = async |_: Job<Resize>| Err::<(), JobError>(reject("nothing is that narrow"));
    let running = queue().worker(&fixture.connection).start(fail).await;
    let running = running.expect("it works");
    fixture.send("resize", "job").await;
    fixture.expect("resize.dead", "job.dead").await;
    running.stop().await.expect("it drains");
    fixture.end(QUEUES).await;
}

async fn golden_messages_are_read(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let queue = queue();
    queue
        .declare(&fixture.connection)
        .await
        .expect("they are there");
    fixture.send("resize.dead", "job.dead").await;
    let letters = queue.dead_letters(&fixture.connection).list(2).await;
    let letters = letters.expect("a list");
    let [letter] = &letters[..] else {
        panic!("one dead letter: {letters:?}");
    };
    assert_eq!(letter.payload().expect("it decodes"), &JOB);
    assert_eq!(
        (letter.reason(), letter.error(), letter.attempt()),
        ("rejected", "nothing is that narrow", 1)
    );
    assert_eq!(letter.source_queue(), "resize");
    assert!(letter.failed_at().is_some() && letter.timestamp().is_some());

    let (told, mut heard) = mpsc::unbounded_channel();
    let tell = move |job: Job<Resize>| {
        let told = told.clone();
        async move { drop(told.send(job)) }
    };
    let running = queue.worker(&fixture.connection).start(tell).await;
    let running = running.expect("it works");
    for (golden, attempt) in [("job", 1), ("job.retry", 2)] {
        fixture.send("resize", golden).await;
        let job = heard.recv().await.expect("a job");
        assert_eq!((job.payload(), job.attempt()), (&JOB, attempt));
        assert_eq!(job.message_id(), Some("0123456789ABCDEFGHIJkl"));
        assert!(job.timestamp().is_some() && job.headers().is_empty());
    }
    running.stop().await.expect("it drains");
    fixture.end(QUEUES).await;
}

/// As with replies: headers have to fit into one frame.
async fn a_long_error_costs_nobody_anything(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let fail = async |_: Job<Resize>| Err::<(), JobError>(reject("ü".repeat(100_000)));
    let running = queue().worker(&fixture.connection).start(fail).await;
    let running = running.expect("it works");
    fixture.send("resize", "job").await;
    let letter = fixture.raw.next(&fixture.name("resize.dead")).await;
    let seen = Message::seen(&letter.delivery, &fixture.namespace);
    for name in ["header error", "header first-error"] {
        assert!(seen.fields[name].len() <= 1024 + 2);
    }
    assert!(!letter.delivery.redelivered);
    running.stop().await.expect("it drains");
    fixture.end(QUEUES).await;
}
