#[lepus::service]
trait Service {
    #[rpc(oneway)]
    async fn value(&self) -> u64;
    #[rpc(oneway)]
    async fn result(&self) -> Result<(), String>;
}

fn main() {}
