#[lepus::service]
trait Service {
    #[rpc(params = "bare")]
    async fn none(&self);
    #[rpc(params = "bare")]
    async fn two(&self, a: u64, b: u64);
}

fn main() {}
