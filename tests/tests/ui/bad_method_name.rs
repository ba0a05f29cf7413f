#[lepus::service]
trait Service {
    #[rpc(name = "")]
    async fn empty(&self);
    #[rpc(queue = "amq.mine")]
    async fn queue(&self);
    #[rpc(name = "lepus.calls/1")]
    async fn calls(&self);
}

fn main() {}
