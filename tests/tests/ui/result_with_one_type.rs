#[lepus::service]
trait Service {
    async fn call(&self) -> std::io::Result<u64>;
}

fn main() {}
