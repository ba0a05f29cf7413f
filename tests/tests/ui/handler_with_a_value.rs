//! A handler of jobs returns a value, which nobody would receive.

async fn run(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let handler = async |job: lepus::Job<u64>| job.into_payload() + 1;
    let queue = lepus::WorkQueue::<u64>::new("numbers");
    queue.worker(&connection).run(handler, lepus::shutdown_signal()).await
}

async fn start(connection: lepus::Connection) -> Result<lepus::Running, lepus::Error> {
    let handler = async |job: lepus::Job<u64>| Ok::<u64, std::io::Error>(job.into_payload() + 1);
    let queue = lepus::WorkQueue::<u64>::new("numbers");
    queue.worker(&connection).start(handler).await
}

fn main() {
    let _ = (run, start);
}
