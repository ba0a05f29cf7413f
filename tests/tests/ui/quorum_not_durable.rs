#[lepus::service(quorum, durable = false)]
trait Service1 {
    async fn call(&self);
}

fn main() {}
