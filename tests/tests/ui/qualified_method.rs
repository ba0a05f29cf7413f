#[lepus::service]
trait Service {
    async unsafe fn call(&self);
    async extern "C" fn abi(&self);
}

fn main() {}
