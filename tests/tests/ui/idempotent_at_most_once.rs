#[lepus::service]
trait Service {
    #[rpc(idempotent, at_most_once)]
    async fn call(&self);
}

fn main() {}
