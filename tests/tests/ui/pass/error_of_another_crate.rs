//! The help about an error of another crate, followed.

use lepus::{Connection, Job, WorkQueue, jobs::{Failure, JobError}};

fn parse(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.parse()
}

#[lepus::tasks]
trait Images {
    async fn resize(&self, id: String) -> Result<(), JobError>;
}

struct Shop;

impl Images for Shop {
    async fn resize(&self, id: String) -> Result<(), JobError> {
        parse(&id).map_err(lepus::retry)?;
        Ok(())
    }
}

/// A type of one's own.
#[derive(Debug)]
struct Own;

impl std::fmt::Display for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("own")
    }
}

impl Failure for Own {}

async fn run(connection: Connection) -> Result<(), lepus::Error> {
    let queue = WorkQueue::<String>::new("images");
    let handler = async |job: Job<String>| -> Result<(), JobError> {
        parse(job.payload()).map_err(lepus::retry)?;
        Ok(())
    };
    queue.worker(&connection).start(handler).await?;
    let handler = async |_: Job<String>| -> Result<(), Own> { Err(Own) };
    queue.worker(&connection).run(handler, async {}).await
}

fn main() {
    let _ = (run, ImagesWorker::new(Shop));
}
