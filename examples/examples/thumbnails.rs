//! A typed worker pool with retries and a dead letter, in one process, with everything printed.
//!
//! `cargo run --example thumbnails` starts a broker of its own, unless `AMQP_URL` names one.

use std::fmt;
use std::time::Duration;

use lepus::{
    Context, RetryPolicy, WorkQueue,
    jobs::{Failure, Retry, TaskPool, TaskProducer},
};
use lepus_examples::{ExampleBroker, ExampleError, logs};

/// The tasks of the thumbnail service.
#[lepus::tasks(queue = "thumbnails", codec = "json")]
trait Thumbnails {
    /// Makes a thumbnail of an image.
    async fn make(&self, image: String, width: u32) -> Result<(), ThumbnailError>;
}

enum ThumbnailError {
    StoreBusy,
    NoImage,
}

impl Failure for ThumbnailError {
    fn retry(&self) -> Retry {
        match self {
            Self::StoreBusy => Retry::Backoff,
            // Another attempt cannot succeed.
            Self::NoImage => Retry::Never,
        }
    }
}

impl fmt::Display for ThumbnailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StoreBusy => "the image store is busy",
            Self::NoImage => "this is no image",
        })
    }
}

struct ThumbnailService {
    done: tokio::sync::mpsc::UnboundedSender<String>,
}

impl Thumbnails for ThumbnailService {
    async fn make(&self, image: String, width: u32) -> Result<(), ThumbnailError> {
        let attempt = Context::current().attempt();
        println!("worker: {image} at {width} px, attempt {attempt}");
        match image.as_str() {
            "notes.txt" => {
                let _ = self.done.send(image);
                Err(ThumbnailError::NoImage)
            }
            "fox.png" if attempt < 3 => Err(ThumbnailError::StoreBusy),
            _ => {
                println!("worker: {image} is done");
                let _ = self.done.send(image);
                Ok(())
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let connection = lepus::Connection::open(&broker.uri).await?;

    let policy = RetryPolicy::default()
        .attempts(4)
        .backoff(Duration::from_millis(200), Duration::from_secs(1));
    let queue = WorkQueue::<String>::new("thumbnails")
        .codec(lepus::Codec::Json)
        .retry(policy);

    let producer = TaskProducer::on(&connection, ThumbnailsProducer::DESCRIPTOR, &queue);
    let producer = ThumbnailsProducer::with_producer(producer);
    for (image, width) in [("hare.png", 640), ("fox.png", 320), ("notes.txt", 320)] {
        producer.make(image.to_owned(), width).await?;
        println!("producer: {image} is stored");
    }
    producer
        .make("owl.png".to_owned(), 64)
        .delay(Duration::from_millis(300))
        .await?;
    println!("producer: owl.png is stored, for later");

    let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let service = ThumbnailsWorker::new(ThumbnailService { done });
    let running = TaskPool::new(&connection, service)
        .queue(&queue)
        .concurrency(2)
        .start()
        .await?;
    for _ in 0..4 {
        finished.recv().await;
    }
    running.stop().await?;

    for letter in queue.dead_letters(&connection).list(10).await? {
        let (reason, error, attempts) = (letter.reason(), letter.error(), letter.attempt());
        let job = String::from_utf8_lossy(letter.bytes());
        println!("dead letter: {job}: {reason} after {attempts} attempt(s): {error}");
    }
    connection.close().await;
    Ok(())
}
