#[lepus::service]
trait Service {
    #[rpc = "oneway"]
    async fn call(&self);
}

fn main() {}
