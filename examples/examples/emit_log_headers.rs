//! Publishes a line with headers: `emit_log_headers [name=value…] [text…]`, on the headers
//! exchange `headers_logs`.
//!
//! Its counterpart is `receive_logs_headers`, or any program that binds a queue to the exchange.

use lepus::Headers;
use lepus_examples::{ExampleError, logs, pair, pairs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = arguments.iter().map_while(|argument| pair(argument));
    let headers: Vec<(&str, &str)> = named.collect();
    let text = match arguments.get(headers.len()..) {
        None | Some([]) => "Hello World!".to_owned(),
        Some(words) => words.join(" "),
    };
    let exchange = Headers::text("headers_logs").transient();
    let mut publish = exchange.publisher(&connection).publish(&text);
    for (name, value) in &headers {
        publish = publish.header(name, *value);
    }
    publish.await?;
    println!(" [x] Sent {}:{text}", pairs(headers));
    connection.close().await;
    Ok(())
}
