#[lepus::service]
trait Service {
    async fn call(&self, #[serde(default)] n: u64);
}

fn main() {}
