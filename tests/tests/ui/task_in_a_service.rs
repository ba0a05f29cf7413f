#[lepus::service]
trait Service {
    #[task(timeout = "2s")]
    async fn call(&self);
}

fn main() {}
