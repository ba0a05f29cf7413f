#[lepus::service(quorum, quorum)]
trait Service1 {
    async fn call(&self);
}

fn main() {}
