//! RPC in one process: typed errors, timeouts, calls that are sent now and awaited later, one-way
//! calls, a service that calls another one, and the same client without a broker.
//!
//! `cargo run --example calculator` starts a broker of its own, unless `AMQP_URL` names one.

use std::time::Duration;

use lepus::{CallError, Connection, Context};
use lepus_examples::{ExampleBroker, ExampleError, logs};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Arithmetic on integers.
#[lepus::service(name = "calculator", version = "1.0.0")]
trait Calculator {
    /// Divides, rounding towards zero.
    #[rpc(idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError>;

    /// Adds after a delay.
    #[rpc(timeout = "200ms")]
    async fn add_slowly(&self, a: i64, b: i64, millis: u64) -> i64;

    /// Returns the time left until the caller's deadline, in milliseconds.
    async fn time_left(&self) -> Option<u64>;

    /// Stores a line. The call does not wait for the server.
    #[rpc(oneway)]
    async fn note(&self, line: String);
}

/// Statistics, computed with the calculator.
#[lepus::service(name = "statistics")]
trait Statistics {
    /// Returns the mean, rounded towards zero.
    async fn mean(&self, numbers: Vec<i64>) -> Result<i64, DivideError>;

    /// Returns the time left for the calculator in a call of this service, in milliseconds.
    async fn time_left(&self) -> Result<Option<u64>, String>;
}

/// A service without a server.
#[lepus::service(name = "abacus")]
trait Abacus {
    async fn count(&self) -> u64;
}

/// Error of a division. The caller receives it as this type.
#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum DivideError {
    #[error("{dividend} cannot be divided by zero")]
    ByZero { dividend: i64 },
    #[error("the quotient is out of range")]
    OutOfRange,
    #[error("the calculator gave no answer")]
    NoAnswer,
}

struct CalculatorService {
    notes: mpsc::UnboundedSender<String>,
}

impl Calculator for CalculatorService {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError> {
        if divisor == 0 {
            return Err(DivideError::ByZero { dividend });
        }
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or(DivideError::OutOfRange)
    }

    async fn add_slowly(&self, a: i64, b: i64, millis: u64) -> i64 {
        // The handler is dropped at the caller's deadline.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        a.saturating_add(b)
    }

    async fn time_left(&self) -> Option<u64> {
        let left = Context::current().time_left()?;
        u64::try_from(left.as_millis()).ok()
    }

    async fn note(&self, line: String) {
        // The receiver is gone when the example ends.
        let _ = self.notes.send(line);
    }
}

struct StatisticsService {
    calculator: CalculatorClient,
}

impl Statistics for StatisticsService {
    async fn mean(&self, numbers: Vec<i64>) -> Result<i64, DivideError> {
        let sum = numbers.iter().try_fold(0i64, |sum, n| sum.checked_add(*n));
        let count = i64::try_from(numbers.len()).ok();
        let (Some(sum), Some(count)) = (sum, count) else {
            return Err(DivideError::OutOfRange);
        };
        match self.calculator.divide(sum, count).await {
            Ok(mean) => Ok(mean),
            Err(CallError::Service(error)) => Err(error),
            Err(CallError::Rpc(_)) => Err(DivideError::NoAnswer),
        }
    }

    async fn time_left(&self) -> Result<Option<u64>, String> {
        // The deadline of this handler bounds the call's timeout.
        let call = self.calculator.time_left().timeout(Duration::from_secs(60));
        call.await.map_err(|error| error.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    // Other programs may use the same broker: the namespace keeps the names apart.
    let connection = Connection::builder(&broker.uri)
        .namespace("lepus-example")
        .open()
        .await?;
    let (notes, mut noted) = mpsc::unbounded_channel();

    let server = lepus::Server::new(&connection)
        .serve(
            CalculatorServer::new(CalculatorService {
                notes: notes.clone(),
            })
            .concurrency(4),
        )
        .serve(StatisticsServer::new(StatisticsService {
            calculator: CalculatorClient::new(&connection),
        }))
        .start()
        .await?;
    println!("serving calculator and statistics");

    let calculator = CalculatorClient::new(&connection);
    errors(&calculator).await?;
    timeouts(&calculator, &connection).await;

    println!("send now, await later:");
    let first = calculator.add_slowly(1, 2, 50).send().await?;
    let second = calculator.divide(84, 2).send().await?;
    println!("  two calls are under way");
    println!("  84 / 2 = {}", second.await?);
    println!("  1 + 2 = {}", first.await?);

    println!("one way:");
    calculator.note("remember the carrots".to_owned()).await?;
    println!("  the broker has the note");
    if let Some(line) = noted.recv().await {
        println!("  the calculator noted: {line}");
    }

    println!("a service that calls another:");
    let statistics = StatisticsClient::new(&connection);
    println!(
        "  mean of 3, 4 and 8 = {}",
        statistics.mean(vec![3, 4, 8]).await?
    );
    match statistics.mean(vec![]).await {
        Err(CallError::Service(error)) => println!("  mean of nothing: {error}"),
        other => println!("  mean of nothing: {other:?}"),
    }
    let time_left = statistics.time_left().timeout(Duration::from_secs(5)).await;
    match time_left {
        Ok(millis) => println!(
            "  called with 5 s, it passes on what is left: {}",
            millis.is_some_and(|millis| (1..=5000).contains(&millis))
        ),
        Err(error) => println!("  {error}"),
    }

    server.stop().await?;
    connection.close().await;

    println!("without a broker:");
    let calculator = CalculatorClient::local(CalculatorService { notes });
    println!("  84 / 2 = {}", calculator.divide(84, 2).await?);
    match calculator.divide(1, 0).await {
        Err(CallError::Service(error)) => println!("  1 / 0: {error}"),
        other => println!("  1 / 0: {other:?}"),
    }
    Ok(())
}

async fn errors(calculator: &CalculatorClient) -> Result<(), ExampleError> {
    println!("typed errors:");
    println!("  84 / 2 = {}", calculator.divide(84, 2).await?);
    for (dividend, divisor) in [(1, 0), (i64::MIN, -1)] {
        match calculator.divide(dividend, divisor).await {
            Ok(quotient) => println!("  {dividend} / {divisor} = {quotient}"),
            // The method's own error, as the server returned it.
            Err(CallError::Service(error)) => println!("  {dividend} / {divisor}: {error}"),
            // The call itself failed.
            Err(CallError::Rpc(error)) => println!("  no answer: {error}"),
        }
    }
    Ok(())
}

async fn timeouts(calculator: &CalculatorClient, connection: &Connection) {
    println!("timeouts:");
    // The timeout of the method is 200 ms.
    match calculator.add_slowly(1, 2, 60_000).await {
        Err(error) => println!(
            "  too slow: timed out: {}, may have run: {}",
            error.is_timeout(),
            error.may_have_executed()
        ),
        Ok(sum) => println!("  1 + 2 = {sum}"),
    }
    let with_more_time = calculator
        .add_slowly(1, 2, 300)
        .timeout(Duration::from_secs(30));
    match with_more_time.await {
        Ok(sum) => println!("  with 30 s: 1 + 2 = {sum}"),
        Err(error) => println!("  {error}"),
    }
    // Its queue does not exist, so the call fails before its timeout.
    match AbacusClient::new(connection).count().await {
        Err(error) => println!(
            "  nobody serves abacus: unroutable: {}, may have run: {}",
            error.is_unroutable(),
            error.may_have_executed()
        ),
        Ok(count) => println!("  {count}"),
    }
}
