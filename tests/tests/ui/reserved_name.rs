#[lepus::service]
trait Service {
    async fn new(&self);
    async fn local(&self);
    async fn with_client(&self);
    async fn clone(&self);
}

fn main() {}
