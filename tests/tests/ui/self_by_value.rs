#[lepus::service]
trait Service {
    async fn taken(self);
    async fn shared(self: std::sync::Arc<Self>);
}

fn main() {}
