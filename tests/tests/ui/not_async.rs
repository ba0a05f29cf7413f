#[lepus::service]
trait Service {
    fn call(&self) -> u64;
    fn preset(&self) -> u64 {
        1
    }
}

fn main() {}
