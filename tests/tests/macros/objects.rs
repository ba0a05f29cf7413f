//! Traits that are used as `dyn Trait`: kept in a registry, served, and mocked.

use lepus::{CallError, Connection, Server, rpc::Client};
use lepus_broker::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;

#[lepus::service(dyn)]
#[mockall::automock]
trait Calculator {
    /// Rounded towards zero.
    #[rpc(idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String>;
    async fn halve(&self, n: i64) -> Result<i64, String> {
        self.divide(n, 2).await
    }
}

struct Exact;
struct Saturating;

#[lepus::async_trait]
impl Calculator for Exact {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String> {
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or_else(|| "by zero".to_owned())
    }
}

#[lepus::async_trait]
impl Calculator for Saturating {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String> {
        Ok(dividend.checked_div(divisor).unwrap_or(i64::MAX))
    }
}

#[tokio::test]
async fn a_trait_object_of_a_registry_is_served() {
    let registry: BTreeMap<&str, Arc<dyn Calculator>> = BTreeMap::from([
        ("exact", Arc::new(Exact) as _),
        ("saturating", Arc::new(Saturating) as _),
    ]);
    let broker = Broker::start().await.unwrap();
    for (name, expected) in [("exact", Err("by zero")), ("saturating", Ok(i64::MAX))] {
        let connection = Connection::builder(&broker.uri()).namespace(name).open();
        let connection = connection.await.unwrap();
        let service = CalculatorServer::from_arc(Arc::clone(&registry[name])).concurrency(2);
        let server = Server::new(&connection)
            .serve(service)
            .start()
            .await
            .unwrap();
        let calculator = CalculatorClient::new(&connection);
        assert_eq!(calculator.halve(84).await.unwrap(), 42);
        match (calculator.divide(1, 0).await, expected) {
            (Ok(quotient), Ok(expected)) => assert_eq!(quotient, expected),
            (Err(CallError::Service(error)), Err(expected)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        server.stop().await.unwrap();
        connection.close().await;
    }
}

#[tokio::test]
async fn a_mock_is_called_by_a_local_client() {
    let mut mock = MockCalculator::new();
    mock.expect_divide()
        .withf(|dividend, divisor| (*dividend, *divisor) == (84, 2))
        .times(1)
        .returning(|_, _| Ok(7));
    let mock: Arc<dyn Calculator> = Arc::new(mock);
    let calculator = CalculatorClient::from(Client::local(CalculatorServer::from_arc(mock)));
    assert_eq!(calculator.divide(84, 2).await.unwrap(), 7);
}
