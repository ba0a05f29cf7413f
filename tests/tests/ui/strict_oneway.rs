#[lepus::service]
trait Service {
    #[rpc(oneway, strict)]
    async fn note(&self, line: String);
}

fn main() {}
