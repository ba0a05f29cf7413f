#[lepus::tasks]
trait Tasks {
    #[rpc(timeout = "2s")]
    async fn call(&self);
}

fn main() {}
