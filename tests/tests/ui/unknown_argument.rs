#[lepus::service(magic)]
trait Service1 {
    async fn call(&self);
}

#[lepus::service(timeout = "2s")]
trait Service2 {
    async fn call(&self);
}

fn main() {}
