#[lepus::service]
trait Service {
    async fn taken(&self, text: impl Into<String>);
    async fn returned(&self) -> impl Into<String>;
}

fn main() {}
