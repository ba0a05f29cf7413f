#[lepus::service(name = 7)]
trait Service1 {
    async fn call(&self);
}

#[lepus::service(version = 1.0)]
trait Service2 {
    async fn call(&self);
}

#[lepus::service(queue = true)]
trait Service3 {
    async fn call(&self);
}

#[lepus::service(codec = json)]
trait Service4 {
    async fn call(&self);
}

#[lepus::service(durable)]
trait Service5 {
    async fn call(&self);
}

#[lepus::service(quorum = true)]
trait Service6 {
    async fn call(&self);
}

#[lepus::service(client = true)]
trait Service7 {
    async fn call(&self);
}

fn main() {}
