//! The events of an exchange are encoded and decoded with serde.

struct LogLine;

async fn publish(connection: &lepus::Connection) -> Result<(), lepus::Error> {
    let logs = lepus::Fanout::<LogLine>::new("logs");
    logs.publisher(connection).publish(&LogLine).await
}

async fn subscribe(connection: &lepus::Connection) -> Result<(), lepus::Error> {
    let logs = lepus::Fanout::<LogLine>::new("logs");
    logs.subscribe(connection).stream().await.map(drop)
}

fn main() {
    let _ = (publish, subscribe);
}
