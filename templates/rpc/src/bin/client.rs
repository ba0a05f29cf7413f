//! Greets the people that its arguments name.

use std::env;
use std::error::Error;

use lepus::{CallError, Connection};

use {{crate_name}}::{GreeterClient, broker_uri, logs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let connection = Connection::open(&broker_uri()).await?;
    let greeter = GreeterClient::new(&connection);
    for name in env::args().skip(1) {
        match greeter.greet(name).await {
            Ok(greeting) => println!("{greeting}"),
            Err(CallError::Service(error)) => println!("not greeted: {error}"),
            Err(CallError::Rpc(error)) => return Err(error.into()),
        }
    }
    connection.close().await;
    Ok(())
}
