//! Shows what happens to orders while it runs.

use std::error::Error;

use lepus::{Connection, events::Missed};

use {{crate_name}}::{broker_uri, logs, orders};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let connection = Connection::open(&broker_uri()).await?;
    let orders = orders().subscribe(&connection).bind("order.*");
    let mut events = orders.stream().await?;
    println!("watching");
    while let Some(next) = events.next().await {
        match next {
            Ok(event) => println!("{}: {:?}", event.key(), event.payload()),
            Err(Missed::Gap(gap)) => println!("nothing was seen for {:?}", gap.away()),
            Err(missed) => println!("{missed}"),
        }
    }
    Ok(())
}
