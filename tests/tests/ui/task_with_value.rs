#[lepus::tasks]
trait Tasks {
    async fn value(&self) -> u64;
    async fn result(&self) -> Result<u64, String>;
}

fn main() {}
