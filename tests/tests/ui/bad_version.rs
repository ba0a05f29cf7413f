#[lepus::service(version = "1.0")]
trait Service1 {
    async fn call(&self);
}

fn main() {}
