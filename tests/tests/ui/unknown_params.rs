#[lepus::service]
trait Service {
    #[rpc(params = "positional")]
    async fn call(&self, n: u64);
}

fn main() {}
