//! An alias of a `Result` that is not recognized by its name.

type Fallible<T> = Result<T, String>;

#[lepus::service]
trait Service {
    async fn call(&self) -> Fallible<u64>;
}

fn main() {}
