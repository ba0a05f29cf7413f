#[lepus::service]
trait Typed<T> {
    async fn call(&self, value: T);
}

#[lepus::service]
trait Borrowing<'a> {
    async fn call(&self);
}

fn main() {}
