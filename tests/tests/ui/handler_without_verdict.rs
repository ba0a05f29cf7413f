//! A handler returns nothing, or a result whose value is nothing.

async fn run(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let handler = async |event: lepus::Event<String>| event.into_payload().len();
    let logs = lepus::Fanout::<String>::new("logs");
    logs.subscribe(&connection).run(handler, lepus::shutdown_signal()).await
}

fn main() {
    let _ = run;
}
