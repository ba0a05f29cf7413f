#[lepus::service]
trait Calculator {
    #[rpc(cancel = false, oneway)]
    async fn note(&self, line: String);
}

fn main() {}
