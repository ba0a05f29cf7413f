#[lepus::service]
trait Service {
    async fn pair(&self, (a, b): (u8, u8));
    async fn nameless(&self, _: u8);
    async fn changed(&self, mut n: u8) {
        n += 1;
        let _ = n;
    }
}

fn main() {}
