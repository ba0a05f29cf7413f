use std::sync::Arc;

#[lepus::service]
trait Greeter {
    async fn greet(&self, name: String) -> String;
}

struct Hare;

impl Greeter for Hare {
    async fn greet(&self, name: String) -> String {
        name
    }
}

fn unwrapped(connection: &lepus::Connection) -> lepus::Server {
    lepus::Server::new(connection).serve(Hare)
}

fn shared(connection: &lepus::Connection) -> lepus::Server {
    lepus::Server::new(connection).serve(Arc::new(Hare))
}

fn main() {}
