#[lepus::service]
trait Calculator {
    #[rpc(cancel)]
    async fn fib(&self, n: u64) -> u64;
}

fn main() {}
