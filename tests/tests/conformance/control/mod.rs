//! The control plane: what runs is found, counted and well, or says why not.

mod discovery;
mod health;
mod instance;

use lepus::{Connection, Running, Server};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Sums and quotients.
///
/// The second paragraph is for readers of the code.
#[lepus::service(name = "calculator", version = "1.2.0")]
trait Calculator {
    /// The n-th Fibonacci number.
    #[rpc(idempotent, timeout = "1500ms")]
    async fn fib(&self, n: u64) -> u64;
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String>;
    #[rpc(oneway, queue = "notes")]
    async fn note(&self, line: String);
}

struct CalculatorService;

impl Calculator for CalculatorService {
    async fn fib(&self, n: u64) -> u64 {
        (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String> {
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or_else(|| "divided by zero".to_owned())
    }

    async fn note(&self, _: String) {}
}

async fn serve(connection: &Connection) -> Running {
    let service = CalculatorServer::new(CalculatorService);
    let server = Server::new(connection).serve(service).start().await;
    server.unwrap_or_else(|error| panic!("a server: {error}"))
}
