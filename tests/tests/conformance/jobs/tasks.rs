//! `#[lepus::tasks]`: jobs that are methods of a trait.

use lapin::BasicProperties;
use lepus::{
    Codec, Context, WorkQueue,
    jobs::{Failure, Retry, TaskPool, TaskProducer},
};
use lepus_tests::jobs::{JobFixture, header, next, policy};
use lepus_tests::{Env, conformance, eventually};
use std::fmt;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

conformance!(
    tasks_are_pushed_and_done,
    a_task_that_fails_is_tried_again_or_not,
    what_no_worker_understands_is_buried_with_the_reason,
    tasks_are_added_without_breaking_old_workers,
    a_rolling_deployment_loses_no_task,
    a_strict_task_waits_for_a_worker_that_has_its_arguments,
    bytes_of_a_task_travel_as_bytes,
    a_task_may_take_its_own_time,
    dead_letters_are_typed_by_their_task,
    the_queue_may_have_other_properties,
    the_codec_is_the_attributes_or_the_queues,
);

/// Pictures.
#[lepus::tasks(codec = "json")]
pub trait Images {
    /// Makes one smaller.
    async fn resize(&self, id: u64, width: u32) -> Result<(), ResizeError>;

    #[task(name = "drop", params = "bare")]
    async fn forget(&self, id: u64);

    async fn sweep(&self);

    #[task(timeout = "50ms")]
    async fn hurry(&self);
}

/// The same with a task more.
mod later {
    #[lepus::tasks(codec = "json")]
    pub trait Images {
        async fn sweep(&self);
        async fn rotate(&self, id: u64, degrees: i32);
    }
}

/// Tasks that name no codec.
mod silent {
    #[lepus::tasks(name = "silent")]
    pub trait Images {
        async fn rotate(&self, id: u64, degrees: i32);
    }
}

#[derive(Debug)]
pub enum ResizeError {
    Busy,
    NoImage,
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "busy",
            Self::NoImage => "no image",
        })
    }
}

impl Failure for ResizeError {
    fn retry(&self) -> Retry {
        match self {
            Self::Busy => Retry::Backoff,
            Self::NoImage => Retry::Never,
        }
    }
}

struct Shop(UnboundedSender<String>);

impl Shop {
    fn open() -> (Self, UnboundedReceiver<String>) {
        let (tell, told) = unbounded_channel();
        (Self(tell), told)
    }

    fn tell(&self, what: &str) {
        let context = Context::current();
        let (method, attempt) = (context.method(), context.attempt());
        self.0.send(format!("{method} {what} #{attempt}")).unwrap();
    }
}

impl Images for Shop {
    async fn resize(&self, id: u64, width: u32) -> Result<(), ResizeError> {
        self.tell(&format!("{id} {width}"));
        match width {
            0 => Err(ResizeError::NoImage),
            1 if Context::current().attempt() < 3 => Err(ResizeError::Busy),
            _ => Ok(()),
        }
    }

    async fn forget(&self, id: u64) {
        self.tell(&id.to_string());
    }

    async fn sweep(&self) {
        self.tell("");
    }

    async fn hurry(&self) {
        let left = Context::current().time_left().expect("a deadline");
        assert!(left <= Duration::from_millis(50), "{left:?}");
        self.tell("");
        std::future::pending().await
    }
}

impl later::Images for Shop {
    async fn sweep(&self) {
        self.tell("");
    }

    async fn rotate(&self, id: u64, degrees: i32) {
        self.tell(&format!("{id} {degrees}"));
    }
}

/// The tasks' queue, with short retries.
fn queue() -> WorkQueue<()> {
    let queue = WorkQueue::new("images").codec(Codec::Json);
    queue.retry(policy(3, 10))
}

async fn dead(fixture: &JobFixture, count: u32) {
    let letters = queue().dead_letters(&fixture.connection);
    eventually(&format!("{count} dead letters"), || async {
        letters.count().await.unwrap() == count
    })
    .await;
}

async fn tasks_are_pushed_and_done(env: Env) {
    let fixture = JobFixture::open(env).await;
    let producer = ImagesProducer::new(&fixture.connection);
    producer.resize(7, 640).await.unwrap();
    producer.forget(7).message_id("f").await.unwrap();
    let soon = Duration::from_millis(20);
    producer.sweep().delay(soon).header("x", 1).await.unwrap();
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let running = pool.start().await.unwrap();
    let mut seen = [
        next(&mut told).await,
        next(&mut told).await,
        next(&mut told).await,
    ];
    seen.sort_unstable();
    assert_eq!(seen, ["drop 7 #1", "resize 7 640 #1", "sweep  #1"]);
    running.stop().await.unwrap();
    fixture.raw.until_messages(&fixture.full("images"), 0).await;

    // The wire is plain: a task is a type, its arguments are a map by name.
    producer.resize(7, 640).await.unwrap();
    let job = fixture.raw.next(&fixture.full("images")).await;
    assert_eq!(job.data, br#"{"id":7,"width":640}"#);
    let properties = &job.properties;
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "resize");
    assert_eq!(*properties.delivery_mode(), Some(2));
    let content_type = properties.content_type().as_ref().unwrap();
    assert_eq!(content_type.as_str(), "application/json");
    fixture.delete_queues(&["images"]).await;
}

async fn a_task_that_fails_is_tried_again_or_not(env: Env) {
    let fixture = JobFixture::open(env).await;
    let producer = ImagesProducer::new(&fixture.connection);
    producer.resize(1, 1).await.unwrap();
    producer.resize(2, 0).await.unwrap();
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let running = pool
        .retry(policy(5, 10))
        .concurrency(2)
        .start()
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut told).await);
    }
    dead(&fixture, 1).await;
    running.stop().await.unwrap();
    seen.sort_unstable();
    let expected = [
        "resize 1 1 #1",
        "resize 1 1 #2",
        "resize 1 1 #3",
        "resize 2 0 #1",
    ];
    assert_eq!(seen, expected);
    let letters = queue().dead_letters(&fixture.connection);
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    assert_eq!(letter.task(), Some("resize"));
    assert_eq!((letter.reason(), letter.error()), ("rejected", "no image"));
    fixture.delete_queues(&["images"]).await;
}

async fn what_no_worker_understands_is_buried_with_the_reason(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let running = pool.retry(policy(1, 1)).start().await.unwrap();
    let images = fixture.full("images");
    let task = |name: &str| BasicProperties::default().with_type(name.into());
    for (properties, body, words) in [
        (
            task("rotate"),
            &b"{}"[..],
            &["no task `rotate`", "resize", "drop"][..],
        ),
        (task(""), b"{}", &["no task ``"]),
        (BasicProperties::default(), b"{}", &["no task"]),
        (task("resize"), br#"{"id": 7}"#, &["`resize`", "width"]),
        (
            task("resize"),
            br#"{"id": "x", "width": 1}"#,
            &["`resize`", "u64"],
        ),
        (task("drop"), b"nonsense", &["`drop`", "decode"]),
        (
            task("sweep").with_content_type("application/xml".into()),
            b"<x/>",
            &["application/xml", "json"],
        ),
    ] {
        fixture
            .raw
            .publish_with("", &images, body, properties)
            .await
            .unwrap();
        let letter = fixture.raw.next(&format!("{images}.dead")).await;
        assert_eq!(letter.data, body);
        let error = header(&letter.properties, "error");
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    // Arguments by position are good, and a task without any takes whatever comes.
    for (name, body) in [("resize", &b"[7, 640]"[..]), ("sweep", b"whatever")] {
        let sent = fixture
            .raw
            .publish_with("", &images, body, task(name))
            .await;
        sent.unwrap();
    }
    assert_eq!(next(&mut told).await, "resize 7 640 #1");
    assert_eq!(next(&mut told).await, "sweep  #1");
    running.stop().await.unwrap();
    fixture.delete_queues(&["images"]).await;
}

async fn tasks_are_added_without_breaking_old_workers(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (shop, mut told) = Shop::open();
    let old = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let old = old.retry(policy(1, 1)).start().await.unwrap();
    let producer = later::ImagesProducer::new(&fixture.connection);
    producer.rotate(7, 90).await.unwrap();
    producer.sweep().await.unwrap();
    assert_eq!(next(&mut told).await, "sweep  #1", "the old worker goes on");
    dead(&fixture, 1).await;
    old.stop().await.unwrap();
    // Once a new worker is there, nothing is lost.
    let letters = queue().dead_letters(&fixture.connection);
    assert_eq!(letters.replay().await.unwrap(), 1);
    let (shop, mut told) = Shop::open();
    let new = TaskPool::new(&fixture.connection, later::ImagesWorker::new(shop));
    let new = new.start().await.unwrap();
    assert_eq!(next(&mut told).await, "rotate 7 90 #1");
    // And it does what old producers push, whose settings are their own.
    let producer = TaskProducer::new(&fixture.connection, ImagesProducer::DESCRIPTOR);
    let producer = producer.timeout(Duration::from_secs(5)).max_in_flight(1);
    let producer = ImagesProducer::with_producer(producer);
    let pushes = (0..3).map(|_| producer.sweep());
    for result in producer.push_all(pushes).await {
        result.unwrap();
        assert_eq!(next(&mut told).await, "sweep  #1");
    }
    new.stop().await.unwrap();
    fixture.delete_queues(&["images"]).await;
}

/// Old and new workers side by side: producers of each version push tasks that the other one's workers do not
/// have.
async fn a_rolling_deployment_loses_no_task(env: Env) {
    const EACH: u64 = 10;
    let fixture = JobFixture::open(env).await;
    let retries = policy(1000, 1).backoff(Duration::from_millis(1), Duration::from_millis(20));
    let (shop, mut told) = Shop::open();
    let (other, mut other_told) = Shop::open();
    let old = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let old = old.retry(retries.clone()).start().await.unwrap();
    let producer = later::ImagesProducer::new(&fixture.connection);
    // There are old workers alone when the first new producer pushes.
    producer.rotate(0, 90).await.unwrap();
    eventually("a retry at the old worker", || async {
        fixture.connection.stats().retried > 0
    })
    .await;
    let new = TaskPool::new(&fixture.connection, later::ImagesWorker::new(other));
    let new = new.retry(retries).start().await.unwrap();
    let old_producer = ImagesProducer::new(&fixture.connection);
    for id in 1..EACH {
        producer.rotate(id, 90).await.unwrap();
        old_producer.resize(id, 640).await.unwrap();
    }
    let (mut rotated, mut resized) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        rotated.push(id_of(&next(&mut other_told).await, "rotate"));
    }
    for _ in 1..EACH {
        resized.push(id_of(&next(&mut told).await, "resize"));
    }
    rotated.sort_unstable();
    resized.sort_unstable();
    assert_eq!(rotated, (0..EACH).collect::<Vec<_>>());
    assert_eq!(resized, (1..EACH).collect::<Vec<_>>());
    let letters = queue().dead_letters(&fixture.connection);
    assert_eq!(letters.count().await.unwrap(), 0);
    old.stop().await.unwrap();
    new.stop().await.unwrap();
    fixture.delete_queues(&["images"]).await;
}

/// A contract whose tasks get an optional argument more.
mod versions {
    pub(super) mod old {
        #[lepus::tasks(name = "images", codec = "json")]
        pub trait Scaler {
            #[task(strict)]
            async fn scale(&self, id: u64);
            async fn trim(&self, id: u64);
        }
    }

    pub(super) mod new {
        #[lepus::tasks(name = "images", codec = "json")]
        pub trait Scaler {
            #[task(strict)]
            async fn scale(&self, id: u64, dry_run: Option<bool>);
            async fn trim(&self, id: u64, dry_run: Option<bool>);
        }
    }
}

impl versions::old::Scaler for Shop {
    async fn scale(&self, id: u64) {
        self.tell(&format!("{id}, old"));
    }

    async fn trim(&self, id: u64) {
        self.tell(&format!("{id}, old"));
    }
}

impl versions::new::Scaler for Shop {
    async fn scale(&self, id: u64, dry_run: Option<bool>) {
        self.tell(&format!("{id} {dry_run:?}, new"));
    }

    async fn trim(&self, id: u64, dry_run: Option<bool>) {
        self.tell(&format!("{id} {dry_run:?}, new"));
    }
}

async fn a_strict_task_waits_for_a_worker_that_has_its_arguments(env: Env) {
    use versions::{new, old};
    let fixture = JobFixture::open(env).await;
    let (shop, mut told) = Shop::open();
    let workers = TaskPool::new(&fixture.connection, old::ScalerWorker::new(shop));
    let retries = policy(1000, 1).backoff(Duration::from_millis(1), Duration::from_millis(20));
    let workers = workers.retry(retries.clone()).start().await.unwrap();
    let producer = new::ScalerProducer::new(&fixture.connection);
    producer.trim(1, Some(true)).await.unwrap();
    assert_eq!(next(&mut told).await, "trim 1, old #1", "ignored");
    producer.scale(2, Some(true)).await.unwrap();
    eventually("a retry at the old worker", || async {
        fixture.connection.stats().retried > 0
    })
    .await;
    workers.stop().await.unwrap();
    assert!(told.try_recv().is_err(), "the old worker did not run it");
    let (shop, mut told) = Shop::open();
    let workers = TaskPool::new(&fixture.connection, new::ScalerWorker::new(shop));
    let workers = workers.retry(retries).start().await.unwrap();
    let line = next(&mut told).await;
    assert!(line.starts_with("scale 2 Some(true), new #"), "{line}");
    workers.stop().await.unwrap();
    fixture.delete_queues(&["images"]).await;
}

#[lepus::tasks(name = "images")]
trait Prints {
    async fn print(&self, page: Vec<u8>) -> Result<(), ResizeError>;
}

impl Prints for Shop {
    async fn print(&self, page: Vec<u8>) -> Result<(), ResizeError> {
        self.tell(&format!("{page:?}"));
        Err(ResizeError::NoImage)
    }
}

async fn bytes_of_a_task_travel_as_bytes(env: Env) {
    let fixture = JobFixture::open(env).await;
    let producer = PrintsProducer::new(&fixture.connection);
    producer.print(vec![0, 255]).await.unwrap();
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(&fixture.connection, PrintsWorker::new(shop));
    let running = pool.start().await.unwrap();
    assert_eq!(next(&mut told).await, "print [0, 255] #1");
    dead(&fixture, 1).await;
    running.stop().await.unwrap();
    let letters = PrintsWorker::dead_letters(&fixture.connection);
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    match letter.payload() {
        Ok(PrintsTask::Print { page }) => assert_eq!(*page, [0, 255]),
        other => panic!("{other:?}"),
    }
    let letter = fixture.raw.next(&fixture.full("images.dead")).await;
    assert_eq!(letter.data, b"\x81\xa4page\xc4\x02\x00\xff");
    fixture.delete_queues(&["images"]).await;
}

/// The id in a line of a shop about this task.
fn id_of(line: &str, task: &str) -> u64 {
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some(task), "{line}");
    words.next().unwrap().parse().unwrap()
}

async fn dead_letters_are_typed_by_their_task(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (shop, mut told) = Shop::open();
    let running = TaskPool::new(&fixture.connection, ImagesWorker::new(shop));
    let running = running.retry(policy(1, 10)).start().await.unwrap();
    let producer = ImagesProducer::new(&fixture.connection);
    producer.resize(7, 0).await.unwrap();
    assert_eq!(next(&mut told).await, "resize 7 0 #1");
    // A task of later, one of arguments of another codec that do not decode, and no task at all.
    let later = later::ImagesProducer::new(&fixture.connection);
    later.rotate(7, 90).await.unwrap();
    let images = fixture.full("images");
    let msgpack = BasicProperties::default()
        .with_type("drop".into())
        .with_content_type("application/msgpack".into());
    for (body, properties) in [
        (&b"\xc4\x01\xff"[..], msgpack),
        (b"7", BasicProperties::default()),
    ] {
        let sent = fixture.raw.publish_with("", &images, body, properties);
        sent.await.unwrap();
    }
    dead(&fixture, 4).await;
    running.stop().await.unwrap();
    let letters = ImagesWorker::dead_letters(&fixture.connection);
    let mut letters = letters.list(9).await.unwrap();
    letters.sort_by_key(|letter| letter.task().map(str::to_owned));
    let [plain, drop, resize, rotate] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert!(matches!(
        resize.payload(),
        Ok(ImagesTask::Resize { id: 7, width: 0 })
    ));
    assert_eq!(resize.to_json(), r#"{"id":7,"width":0}"#);
    assert_eq!(drop.to_json(), r#"{"$bytes":"/w=="}"#);
    for (letter, words) in [
        (plain, &["names no task"][..]),
        (drop, &["`drop`", "application/msgpack"]),
        (rotate, &["`rotate`", "`resize`, `drop`, `sweep`, `hurry`"]),
    ] {
        let error = letter.payload().expect_err("it does not decode");
        assert!(error.is_decode(), "{error}");
        let cause = std::error::Error::source(error)
            .expect("a cause")
            .to_string();
        for word in words {
            assert!(cause.contains(word), "{word}: {cause}");
        }
    }
    fixture.delete_queues(&["images"]).await;
}

async fn a_task_may_take_its_own_time(env: Env) {
    let fixture = JobFixture::open(env).await;
    let producer = ImagesProducer::new(&fixture.connection);
    producer.hurry().await.unwrap();
    let (shop, mut told) = Shop::open();
    // The pool's limit is for tasks without one of their own.
    let running = TaskPool::new(&fixture.connection, ImagesWorker::new(shop))
        .retry(policy(1, 10))
        .timeout(Duration::from_secs(3600))
        .start()
        .await
        .unwrap();
    assert_eq!(next(&mut told).await, "hurry  #1");
    dead(&fixture, 1).await;
    running.stop().await.unwrap();
    let letters = queue().dead_letters(&fixture.connection);
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    assert_eq!(letter.error(), "stopped after 50ms");

    producer.hurry().await.unwrap();
    let (shop, _told) = Shop::open();
    let running = TaskPool::new(&fixture.connection, ImagesWorker::new(shop))
        .retry(policy(1, 10))
        .timeout(Duration::from_millis(1))
        .start()
        .await
        .unwrap();
    dead(&fixture, 2).await;
    running.stop().await.unwrap();
    for letter in letters.list(2).await.unwrap() {
        assert_eq!(letter.error(), "stopped after 50ms");
    }
    fixture.delete_queues(&["images"]).await;
}

async fn the_queue_may_have_other_properties(env: Env) {
    let fixture = JobFixture::open(env).await;
    let ranks = WorkQueue::<()>::new("ranks").classic().max_priority(3);
    let connection = &fixture.connection;
    let producer = TaskProducer::on(connection, ImagesProducer::DESCRIPTOR, &ranks);
    let producer = ImagesProducer::with_producer(producer);
    producer.forget(1).priority(1).await.unwrap();
    producer.forget(3).priority(3).await.unwrap();
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(&fixture.connection, ImagesWorker::new(shop)).queue(&ranks);
    let running = pool.start().await.unwrap();
    assert_eq!(next(&mut told).await, "drop 3 #1");
    assert_eq!(next(&mut told).await, "drop 1 #1");
    producer.resize(7, 0).await.unwrap();
    let letters = ImagesWorker::dead_letters_on(connection, &ranks);
    let letter = eventually("a dead letter", || async {
        letters.list(1).await.unwrap().pop()
    })
    .await;
    assert!(matches!(
        letter.into_payload(),
        Ok(ImagesTask::Resize { id: 7, width: 0 })
    ));
    running.stop().await.unwrap();
    assert!(!fixture.raw.exists(&fixture.full("images")).await);
    fixture.delete_queues(&["ranks"]).await;
}

async fn the_codec_is_the_attributes_or_the_queues(env: Env) {
    let fixture = JobFixture::open(env).await;
    let connection = &fixture.connection;
    let plain = WorkQueue::<()>::new("codecs").classic();
    let json = plain.clone().codec(Codec::Json);
    let msgpack = plain.clone().codec(Codec::MsgPack);
    let on = |queue: &WorkQueue<()>| {
        let producer = TaskProducer::on(connection, ImagesProducer::DESCRIPTOR, queue);
        ImagesProducer::with_producer(producer)
    };
    let full = fixture.full("codecs");
    for queue in [&plain, &json] {
        on(queue).resize(7, 640).await.unwrap();
        let job = fixture.raw.next(&full).await;
        let content_type = job.properties.content_type().as_ref();
        assert_eq!(content_type.unwrap().as_str(), "application/json");
        assert_eq!(job.data, br#"{"id":7,"width":640}"#);
    }

    let silent = silent::ImagesProducer::DESCRIPTOR;
    for (queue, content_type) in [
        (&plain, "application/msgpack"),
        (&json, "application/json"),
        (&msgpack, "application/msgpack"),
    ] {
        let producer = TaskProducer::on(connection, silent, queue);
        let producer = silent::ImagesProducer::with_producer(producer);
        producer.rotate(7, 90).await.unwrap();
        let job = fixture.raw.next(&full).await;
        let sent = job.properties.content_type().as_ref();
        assert_eq!(sent.unwrap().as_str(), content_type);
    }

    let (shop, _told) = Shop::open();
    let pool = TaskPool::new(connection, ImagesWorker::new(shop)).queue(&msgpack);
    let started = pool.start().await.map(drop);
    for refused in [started, on(&msgpack).sweep().await] {
        let error = refused.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        let text = error.to_string();
        for word in [
            "`images`",
            "`codecs`",
            "application/json",
            "application/msgpack",
        ] {
            assert!(text.contains(word), "{text}");
        }
    }

    // A job that says nothing of it is read in the same codec.
    fixture
        .raw
        .publish_with(
            "",
            &full,
            b"7",
            BasicProperties::default().with_type("drop".into()),
        )
        .await
        .unwrap();
    let (shop, mut told) = Shop::open();
    let pool = TaskPool::new(connection, ImagesWorker::new(shop)).queue(&plain);
    let running = pool.start().await.unwrap();
    assert_eq!(next(&mut told).await, "drop 7 #1");
    running.stop().await.unwrap();
    fixture.delete_queues(&["codecs"]).await;
}
