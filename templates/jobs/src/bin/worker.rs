//! Works until Ctrl-C or SIGTERM.

use std::error::Error;

use lepus::Connection;
use lepus::jobs::TaskPool;

use {{crate_name}}::{ImagesWorker, Store, broker_uri, logs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let connection = Connection::open(&broker_uri()).await?;
    // Up to four jobs at once. Start as many workers as you like: they share the jobs.
    let pool = TaskPool::new(&connection, ImagesWorker::new(Store::new(1..=9)));
    println!("working");
    pool.concurrency(4).run(lepus::shutdown_signal()).await?;
    connection.close().await;
    Ok(())
}
