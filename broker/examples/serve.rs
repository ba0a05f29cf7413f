//! Serves one address until Ctrl-C: `cargo run --example serve -- 127.0.0.1:5673`.
#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::{error::Error, net::SocketAddr};

use lepus_broker::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = match std::env::args().nth(1) {
        Some(given) => given.parse()?,
        None => ([127, 0, 0, 1], 5672).into(),
    };
    let broker = Broker::builder().address(address).start().await?;
    println!("serving {}", broker.uri());
    tokio::signal::ctrl_c().await?;
    broker.shutdown().await;
    Ok(())
}
