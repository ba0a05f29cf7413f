#[lepus::service]
trait Service {
    async fn slice(&self, slice: [u8]);
    async fn text(&self) -> str;
    async fn object(&self) -> dyn std::fmt::Debug;
}

fn main() {}
