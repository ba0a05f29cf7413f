//! Calls of the service.

use lepus::{Connection, Server};
use lepus_broker::Broker;

use {{crate_name}}::{GreetError, GreeterClient, GreeterServer, GreeterService};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Without a broker: the client and the implementation, with the encoding in between.
#[tokio::test]
async fn somebody_is_greeted() -> TestResult {
    let greeter = GreeterClient::local(GreeterService);
    assert_eq!(greeter.greet("world".to_owned()).await?, "Hello, world!");
    Ok(())
}

/// Over a broker inside this process.
#[tokio::test]
async fn nobody_is_an_error() -> TestResult {
    let broker = Broker::start().await?;
    let connection = Connection::open(&broker.uri()).await?;
    let server = Server::new(&connection).serve(GreeterServer::new(GreeterService));
    let server = server.start().await?;

    let greeter = GreeterClient::new(&connection);
    let error = greeter.greet(String::new()).await.unwrap_err();
    assert_eq!(error.service(), Some(&GreetError::NoName));

    server.stop().await?;
    // Nobody serves any more, so this call waits in the queue until its time is up.
    let error = greeter.greet("world".to_owned()).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    connection.close().await;
    Ok(())
}
