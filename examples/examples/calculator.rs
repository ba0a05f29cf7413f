//! What a service and its calls can do, in one process: typed errors, timeouts, calls sent now
//! and awaited later, one-way calls, two services of which one calls the other, and the same
//! client without a broker.
//!
//! `cargo run --example calculator` needs no broker: it brings one along.

use std::time::Duration;

use lepus::{CallError, Connection, Context};
use lepus_examples::{Trouble, TryOut, logs};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Whole numbers.
#[lepus::service(name = "calculator", version = "1.0.0")]
trait Calculator {
    /// The quotient, towards zero.
    #[rpc(idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError>;

    /// The sum, after a while.
    #[rpc(timeout = "200ms")]
    async fn add_slowly(&self, a: i64, b: i64, millis: u64) -> i64;

    /// How long the caller still waits, in milliseconds.
    async fn patience(&self) -> Option<u64>;

    /// Keeps a line. Nobody waits for it.
    #[rpc(oneway)]
    async fn note(&self, line: String);
}

/// Numbers about numbers. It asks the calculator.
#[lepus::service(name = "statistics")]
trait Statistics {
    /// The mean of some numbers, towards zero.
    async fn mean(&self, numbers: Vec<i64>) -> Result<i64, DivideError>;

    /// How long the calculator may take for this caller, in milliseconds.
    async fn patience(&self) -> Result<Option<u64>, String>;
}

/// A service that nobody serves.
#[lepus::service(name = "abacus")]
trait Abacus {
    async fn count(&self) -> u64;
}

/// Why there is no quotient: it travels to the caller, and stays what it is.
#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum DivideError {
    #[error("{dividend} cannot be divided by zero")]
    ByZero { dividend: i64 },
    #[error("the quotient is out of range")]
    OutOfRange,
    #[error("the calculator gave no answer")]
    NoAnswer,
}

struct Pocket {
    notes: mpsc::UnboundedSender<String>,
}

impl Calculator for Pocket {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideError> {
        if divisor == 0 {
            return Err(DivideError::ByZero { dividend });
        }
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or(DivideError::OutOfRange)
    }

    async fn add_slowly(&self, a: i64, b: i64, millis: u64) -> i64 {
        // Stopped at the caller's deadline, when nobody waits for the sum any more.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        a.saturating_add(b)
    }

    async fn patience(&self) -> Option<u64> {
        let left = Context::current().time_left()?;
        u64::try_from(left.as_millis()).ok()
    }

    async fn note(&self, line: String) {
        // Where nobody reads the notes any more, none are needed.
        let _ = self.notes.send(line);
    }
}

struct Desk {
    calculator: CalculatorClient,
}

impl Statistics for Desk {
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

    async fn patience(&self) -> Result<Option<u64>, String> {
        // The call asks for a minute; what is left of the deadline of this handler bounds it.
        let call = self.calculator.patience().timeout(Duration::from_secs(60));
        call.await.map_err(|error| error.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let broker = TryOut::start().await?;
    // On a broker that others use too, the example keeps to names of its own.
    let connection = Connection::builder(&broker.uri)
        .namespace("lepus-example")
        .open()
        .await?;
    let (notes, mut noted) = mpsc::unbounded_channel();

    let server = lepus::Server::new(&connection)
        .serve(CalculatorServer::new(Pocket {
            notes: notes.clone(),
        }))
        .concurrency(4)
        .serve(StatisticsServer::new(Desk {
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
    let patience = statistics.patience().timeout(Duration::from_secs(5)).await;
    match patience {
        Ok(millis) => println!(
            "  called with 5 s, it passes on what is left: {}",
            millis.is_some_and(|millis| (1..=5000).contains(&millis))
        ),
        Err(error) => println!("  {error}"),
    }

    server.stop().await?;
    connection.close().await;

    println!("without a broker:");
    let calculator = CalculatorClient::local(Pocket { notes });
    println!("  84 / 2 = {}", calculator.divide(84, 2).await?);
    match calculator.divide(1, 0).await {
        Err(CallError::Service(error)) => println!("  1 / 0: {error}"),
        other => println!("  1 / 0: {other:?}"),
    }
    Ok(())
}

async fn errors(calculator: &CalculatorClient) -> Result<(), Trouble> {
    println!("typed errors:");
    println!("  84 / 2 = {}", calculator.divide(84, 2).await?);
    for (dividend, divisor) in [(1, 0), (i64::MIN, -1)] {
        match calculator.divide(dividend, divisor).await {
            Ok(quotient) => println!("  {dividend} / {divisor} = {quotient}"),
            // The method's own error, as the server made it.
            Err(CallError::Service(error)) => println!("  {dividend} / {divisor}: {error}"),
            // What happened to the call.
            Err(CallError::Rpc(error)) => println!("  no answer: {error}"),
        }
    }
    Ok(())
}

async fn timeouts(calculator: &CalculatorClient, connection: &Connection) {
    println!("timeouts:");
    // The method's own limit is 200 ms.
    match calculator.add_slowly(1, 2, 60_000).await {
        Err(error) => println!(
            "  too slow: timed out: {}, may have run: {}",
            error.is_timeout(),
            error.may_have_executed()
        ),
        Ok(sum) => println!("  1 + 2 = {sum}"),
    }
    let patient = calculator
        .add_slowly(1, 2, 300)
        .timeout(Duration::from_secs(30));
    match patient.await {
        Ok(sum) => println!("  with 30 s: 1 + 2 = {sum}"),
        Err(error) => println!("  {error}"),
    }
    // Nobody ever declared its queue: no need to wait for the timeout.
    match AbacusClient::new(connection).count().await {
        Err(error) => println!(
            "  nobody serves abacus: unroutable: {}, may have run: {}",
            error.is_unroutable(),
            error.may_have_executed()
        ),
        Ok(count) => println!("  {count}"),
    }
}
