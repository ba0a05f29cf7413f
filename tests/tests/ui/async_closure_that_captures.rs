//! The futures of an async closure borrow its captures, and a handler's future has to own them.

async fn run(connection: lepus::Connection, prefix: String) -> Result<(), lepus::Error> {
    let handler = async move |job: lepus::Job<String>| println!("{prefix}{}", job.payload());
    let queue = lepus::WorkQueue::<String>::new("texts");
    queue.worker(&connection).run(handler, lepus::shutdown_signal()).await
}

fn main() {
    let _ = run;
}
