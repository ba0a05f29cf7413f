#[lepus::service]
trait Service {
    type Output;
    const LIMIT: u64;
    async fn call(&self);
}

fn main() {}
