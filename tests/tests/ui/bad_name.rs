#[lepus::service(name = "")]
trait Service1 {
    async fn call(&self);
}

#[lepus::service(name = "a\n")]
trait Service2 {
    async fn call(&self);
}

#[lepus::service(name = "amq.mine")]
trait Service3 {
    async fn call(&self);
}

#[lepus::service(queue = "amq.mine")]
trait Service4 {
    async fn call(&self);
}

fn main() {}
