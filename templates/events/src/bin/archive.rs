//! Archives what happens to orders until Ctrl-C or SIGTERM, and later what has happened meanwhile.

use std::error::Error;

use lepus::{Connection, Event};

use {{crate_name}}::{OrderEvent, broker_uri, logs, orders};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let connection = Connection::open(&broker_uri()).await?;
    let archive = async |event: Event<OrderEvent>| println!("archived: {:?}", event.payload());
    // The members of the group divide the events. Its queue keeps them while no member is connected.
    let group = orders().subscribe(&connection).bind("#").shared("archive");
    println!("archiving");
    group.run(archive, lepus::shutdown_signal()).await?;
    connection.close().await;
    Ok(())
}
