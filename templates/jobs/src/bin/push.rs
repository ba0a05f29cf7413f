//! Pushes a job: `push IMAGE WIDTH`.

use std::env;
use std::error::Error;

use lepus::Connection;

use {{crate_name}}::{ImagesProducer, broker_uri, logs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [id, width] = &arguments[..] else {
        return Err("usage: push IMAGE WIDTH".into());
    };
    let (id, width) = (id.parse()?, width.parse()?);
    let connection = Connection::open(&broker_uri()).await?;
    // Returns when the broker has stored the job.
    ImagesProducer::new(&connection).resize(id, width).await?;
    println!("image {id} is going to be {width} pixels wide");
    connection.close().await;
    Ok(())
}
