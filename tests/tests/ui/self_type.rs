#[lepus::service]
trait Service {
    async fn call(&self, other: Option<Self>) where Self: Sized;
}

fn main() {}
