//! Events from their publisher to their subscribers, over a broker inside this process.

use std::time::Duration;

use lepus::{Connection, Event};
use lepus_broker::Broker;
use tokio::sync::mpsc;
use tokio::time::timeout;

use {{crate_name}}::{OrderEvent, orders};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Long enough on any machine.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_subscription_gets_what_it_is_bound_to() -> TestResult {
    let broker = Broker::start().await?;
    let connection = Connection::open(&broker.uri()).await?;
    let paid = orders().subscribe(&connection).bind("order.paid");
    let mut paid = paid.stream().await?;

    let publisher = orders().publisher(&connection);
    for event in [
        OrderEvent::Placed { id: 7, items: 3 },
        OrderEvent::Paid { id: 7, cents: 1295 },
    ] {
        publisher.publish(event.key(), &event).await?;
    }
    let event = timeout(LONG, paid.next()).await?;
    let event = event.ok_or("the subscription has ended")??;
    assert_eq!(event.payload(), &OrderEvent::Paid { id: 7, cents: 1295 });

    connection.close().await;
    Ok(())
}

#[tokio::test]
async fn a_group_gets_what_was_published_while_it_was_away() -> TestResult {
    let broker = Broker::start().await?;
    let connection = Connection::open(&broker.uri()).await?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let archive = move |event: Event<OrderEvent>| {
        let sent = sender.send(event.payload().clone());
        async move { sent.map_err(|_| lepus::reject("the test has ended")) }
    };
    let group = || orders().subscribe(&connection).bind("#").shared("archive");
    group().start(archive.clone()).await?.stop().await?;

    let placed = OrderEvent::Placed { id: 7, items: 3 };
    let publisher = orders().publisher(&connection);
    publisher.publish(placed.key(), &placed).await?;
    let running = group().start(archive).await?;
    assert_eq!(timeout(LONG, received.recv()).await?, Some(placed));

    running.stop().await?;
    connection.close().await;
    Ok(())
}
