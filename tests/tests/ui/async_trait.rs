#[lepus::service]
#[async_trait::async_trait]
trait Service {
    async fn call(&self);
}

fn main() {}
