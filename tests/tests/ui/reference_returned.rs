#[lepus::service]
trait Service {
    async fn text(&self) -> &str;
    async fn fixed(&self) -> &'static str;
    async fn fallible(&self) -> Result<&str, String>;
}

fn main() {}
