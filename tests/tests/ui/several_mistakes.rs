// Every mistake in one pass, and no error about the implementation: the trait is there.
#[lepus::service(version = "1", magic)]
trait Calculator {
    async fn fib(&self, n: u64) -> u64;

    async fn text(&self, text: &str) -> std::io::Result<String>;

    #[rpc(timeout = "2x", oneway)]
    async fn new(&self) -> u64;

    #[rpc(name = "fib")]
    fn other(&self);

    async fn pair(&self, (a, b): (u8, u8));
}

struct Pocket;

impl Calculator for Pocket {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn text(&self, text: &str) -> std::io::Result<String> {
        Ok(text.to_owned())
    }
    async fn new(&self) -> u64 {
        1
    }
    fn other(&self) {}
    async fn pair(&self, (a, b): (u8, u8)) {
        let _ = a + b;
    }
}

fn main() {}
