#[lepus::service]
trait Service {
    #[rpc(name = "")]
    async fn empty(&self);
    #[rpc(queue = "amq.mine")]
    async fn queue(&self);
}

fn main() {}
