#[lepus::service]
trait Service {
    #[cfg_attr(all(), rpc(oneway))]
    async fn call(&self);
}

fn main() {}
