#[lepus::service]
trait Service {
    async fn typed<T>(&self, value: T);
    async fn borrowing<'a>(&self);
    async fn bound(&self) where u8: Copy;
}

fn main() {}
