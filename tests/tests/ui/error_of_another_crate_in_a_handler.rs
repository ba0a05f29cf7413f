//! The same in a handler of jobs.

async fn run(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let handler = async |_: lepus::Job<u64>| -> Result<(), std::num::ParseIntError> { Ok(()) };
    let queue = lepus::WorkQueue::<u64>::new("images");
    queue.worker(&connection).run(handler, lepus::shutdown_signal()).await
}

fn main() {
    let _ = run;
}
