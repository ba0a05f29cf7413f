use lepus::Context;

#[lepus::service]
trait Service {
    async fn greet(&self, ctx: Context, name: String) -> String;
    async fn part(&self, request: &lepus::Context);
}

#[lepus::tasks]
trait Tasks {
    async fn greet(&self, _context: Context, name: String);
}

fn main() {}
