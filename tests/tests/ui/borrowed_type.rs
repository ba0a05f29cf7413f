#[lepus::service]
trait Service {
    async fn call(&self, text: std::borrow::Cow<'_, str>);
}

fn main() {}
