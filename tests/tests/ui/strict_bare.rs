#[lepus::service]
trait Service {
    #[rpc(strict, params = "bare")]
    async fn call(&self, argument: String) -> String;
}

#[lepus::tasks]
trait Tasks {
    #[task(params = "bare", strict)]
    async fn task(&self, argument: String);
}

fn main() {}
