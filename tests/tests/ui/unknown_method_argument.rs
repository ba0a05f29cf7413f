#[lepus::service]
trait Service {
    #[rpc(magic)]
    async fn magic(&self);
    #[rpc(codec = "json")]
    async fn codec(&self);
}

fn main() {}
