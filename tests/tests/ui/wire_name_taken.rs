#[lepus::service]
trait Service {
    async fn first(&self);
    #[rpc(name = "first")]
    async fn second(&self);
    #[cfg(all())]
    async fn third(&self);
    #[cfg(any())]
    #[rpc(name = "third")]
    async fn fourth(&self);
}

fn main() {}
