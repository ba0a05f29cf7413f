#[lepus::service(name)]
trait Service1 {
    async fn call(&self);
}

#[lepus::service(name =)]
trait Service2 {
    async fn call(&self);
}

#[lepus::service(name("calculator"))]
trait Service3 {
    async fn call(&self);
}

#[lepus::service("calculator")]
trait Service4 {
    async fn call(&self);
}

#[lepus::service(, quorum)]
trait Service5 {
    async fn call(&self);
}

#[lepus::service(crate = 5)]
trait Service6 {
    async fn call(&self);
}

#[lepus::service(crate = "a b")]
trait Service7 {
    async fn call(&self);
}

fn main() {}
