#[lepus::service]
trait Service {
    async fn call(&mut self);
}

fn main() {}
