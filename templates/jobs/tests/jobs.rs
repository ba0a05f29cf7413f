//! Jobs from their push to their end, over a broker inside this process.

use std::sync::Arc;
use std::time::Duration;

use lepus::Connection;
use lepus::jobs::TaskPool;
use lepus_broker::Broker;

use {{crate_name}}::{ImagesProducer, ImagesTask, ImagesWorker, Store};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Looks again and again, until something is true or a long time has passed.
async fn until(mut is_true: impl AsyncFnMut() -> bool) -> TestResult {
    let looks = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(30), looks).await?)
}

#[tokio::test]
async fn an_image_is_resized() -> TestResult {
    let broker = Broker::start().await?;
    let connection = Connection::open(&broker.uri()).await?;
    let store = Arc::new(Store::new([7]));
    let worker = ImagesWorker::from_arc(Arc::clone(&store));
    let pool = TaskPool::new(&connection, worker).start().await?;

    ImagesProducer::new(&connection).resize(7, 640).await?;
    until(async || store.width(7) == Some(640)).await?;

    pool.stop().await?;
    connection.close().await;
    Ok(())
}

#[tokio::test]
async fn an_image_that_is_not_there_becomes_a_dead_letter() -> TestResult {
    let broker = Broker::start().await?;
    let connection = Connection::open(&broker.uri()).await?;
    let worker = ImagesWorker::new(Store::default());
    let pool = TaskPool::new(&connection, worker).start().await?;

    ImagesProducer::new(&connection).resize(7, 640).await?;
    let dead = ImagesWorker::dead_letters(&connection);
    until(async || dead.count().await.is_ok_and(|count| count == 1)).await?;
    let letter = dead.list(1).await?.pop().ok_or("no dead letter")?;
    assert_eq!(letter.error(), "there is no such image");
    let task = letter.into_payload()?;
    assert!(matches!(task, ImagesTask::Resize { id: 7, width: 640 }));

    pool.stop().await?;
    connection.close().await;
    Ok(())
}
