#[lepus::service]
trait Service {
    #[rpc(oneway, oneway)]
    async fn call(&self);
    #[rpc(idempotent)]
    #[rpc(idempotent)]
    async fn apart(&self);
}

fn main() {}
