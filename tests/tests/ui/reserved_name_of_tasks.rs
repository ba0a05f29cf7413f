#[lepus::tasks]
trait Tasks {
    async fn new(&self);
    async fn with_producer(&self);
    async fn push_all(&self);
    async fn clone(&self);
}

fn main() {}
