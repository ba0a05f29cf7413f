#[lepus::service]
trait Service {
    async fn text(&self, text: &str);
    async fn list(&self, list: &[Vec<u8>]);
    async fn any(&self, any: &mut u64);
    async fn nested(&self, nested: Vec<&str>);
}

fn main() {}
