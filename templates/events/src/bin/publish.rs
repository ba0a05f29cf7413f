//! Publishes that an order was placed: `publish ORDER ITEMS`.

use std::env;
use std::error::Error;

use lepus::Connection;

use {{crate_name}}::{OrderEvent, broker_uri, logs, orders};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [id, items] = &arguments[..] else {
        return Err("usage: publish ORDER ITEMS".into());
    };
    let event = OrderEvent::Placed {
        id: id.parse()?,
        items: items.parse()?,
    };
    let connection = Connection::open(&broker_uri()).await?;
    // Returns when the queues of all subscribers have it, on disk if they are durable.
    let publisher = orders().publisher(&connection).persistent();
    publisher.publish(event.key(), &event).await?;
    println!("published {event:?}");
    connection.close().await;
    Ok(())
}
