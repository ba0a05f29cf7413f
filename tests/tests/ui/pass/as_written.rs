//! The contract of the documentation, implemented exactly as it is written.

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct DivideByZero;

#[lepus::service(name = "calculator", version = "1.0.0", queue = "sums", codec = "json", quorum)]
pub trait Calculator {
    /// The n-th Fibonacci number.
    async fn fib(&self, n: u64) -> u64;

    #[rpc(timeout = "2s", idempotent, name = "div")]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;

    #[rpc(oneway, at_most_once, queue = "notes")]
    async fn note(&self, line: String);

    #[rpc(default, params = "bare")]
    async fn echo(&self, line: String) -> String {
        line
    }
}

struct Pocket;

impl Calculator for Pocket {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend.checked_div(divisor).ok_or(DivideByZero)
    }
    async fn note(&self, _line: String) {}
}

fn is_a_service<S: lepus::rpc::Service>(_: &S) {}

fn main() {
    is_a_service(&CalculatorServer::new(Pocket));
    let client: CalculatorClient = CalculatorClient::local(Pocket);
    let _: lepus::Call<u64> = client.fib(30);
    let _: lepus::Call<i64, DivideByZero> = client.divide(1, 0);
    let _: lepus::Call<()> = client.note(String::new());
}
