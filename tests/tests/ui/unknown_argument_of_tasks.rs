#[lepus::tasks(quorum)]
trait Tasks {
    #[task(oneway)]
    async fn call(&self);
}

fn main() {}
