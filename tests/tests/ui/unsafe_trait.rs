#[lepus::service]
unsafe trait Service {
    async fn call(&self);
}

fn main() {}
