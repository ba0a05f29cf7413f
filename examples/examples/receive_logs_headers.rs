//! Prints the lines whose headers match: `receive_logs_headers all|any name=value…`, from the
//! headers exchange `headers_logs`, until Ctrl-C.
//!
//! Its counterpart is `emit_log_headers`, or any program that publishes to the exchange.

use lepus::{Event, Headers, amqp::Value, events::Match};
use lepus_examples::{ExampleError, logs, pair, pairs, required_arguments, shared_uri, usage};

const USAGE: &str = "all|any [name=value]...";

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let arguments = required_arguments(USAGE);
    let mut conditions = match arguments.first().map(String::as_str) {
        Some("all") => Match::all(),
        Some("any") => Match::any(),
        _ => usage(USAGE),
    };
    for argument in arguments.iter().skip(1) {
        let Some((name, value)) = pair(argument) else {
            usage(USAGE)
        };
        conditions = conditions.header(name, value);
    }
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let exchange = Headers::text("headers_logs").transient();
    let print = async |event: Event<String>| {
        let text = event.headers().iter();
        let text = text.filter_map(|(name, value)| Some((name.as_str(), Value::as_str(value)?)));
        println!(" [x] {}:{}", pairs(text), event.payload());
    };
    let subscribe = exchange.subscribe(&connection).bind(conditions);
    let running = subscribe.start(print).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    running.until(stop).await?;
    connection.close().await;
    Ok(())
}
