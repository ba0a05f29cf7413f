#[lepus::service(codec = "xml")]
trait Service1 {
    async fn call(&self);
}

fn main() {}
