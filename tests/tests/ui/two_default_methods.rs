#[lepus::service]
trait Service {
    #[rpc(default)]
    async fn first(&self);
    #[rpc(default)]
    async fn second(&self);
}

fn main() {}
