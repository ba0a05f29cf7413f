#[lepus::service]
trait Service {
    async fn call();
    async fn with_argument(n: u64);
}

fn main() {}
