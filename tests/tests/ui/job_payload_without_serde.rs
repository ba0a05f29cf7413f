//! The payload of a queue implements neither of serde's traits.

struct Resize {
    id: u64,
}

async fn produce(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let queue = lepus::WorkQueue::<Resize>::new("resize");
    let producer = queue.producer(&connection).max_in_flight(8);
    producer.push(&Resize { id: 7 }).await
}

async fn work(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let queue = lepus::WorkQueue::<Resize>::new("resize");
    let handler = async |job: lepus::Job<Resize>| println!("{}", job.payload().id);
    let pool = queue.worker(&connection).concurrency(4);
    pool.run(handler, lepus::shutdown_signal()).await
}

fn main() {
    let _ = (produce, work);
}
