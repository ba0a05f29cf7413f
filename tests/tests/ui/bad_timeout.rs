#[lepus::service]
trait Service {
    #[rpc(timeout = "2x")]
    async fn unit(&self);
    #[rpc(timeout = "0s")]
    async fn zero(&self);
    #[rpc(timeout = "9999h")]
    async fn long(&self);
    #[rpc(timeout = 2)]
    async fn number(&self);
}

fn main() {}
