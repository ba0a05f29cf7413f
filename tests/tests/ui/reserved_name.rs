#[lepus::service]
trait Service {
    async fn new(&self);
    async fn local(&self);
    async fn builder(&self);
    async fn clone(&self);
}

fn main() {}
