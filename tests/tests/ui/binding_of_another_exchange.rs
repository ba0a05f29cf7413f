//! A direct exchange is bound with a routing key, and not with a match of headers.

async fn subscribe(connection: lepus::Connection) -> Result<(), lepus::Error> {
    let logs = lepus::Direct::<String>::new("logs");
    let errors = lepus::events::Match::all().header("severity", "error");
    logs.subscribe(&connection).bind(errors).stream().await.map(drop)
}

fn main() {
    let _ = subscribe;
}
