//! Peers in other languages and of other clients.

use lepus_tests::Env;
use lepus_tests::process::{Program, Signal, python};
use tokio::sync::Mutex;

mod both_ways;
mod clients;
mod python;
mod streams;
mod tutorials;
mod uploads;

/// The tutorials call this queue `rpc_queue` on every broker: one test at a time uses it.
static RPC_QUEUE: Mutex<()> = Mutex::const_new(());

/// Starts a Python peer.
fn start(env: &Env, script: &str, arguments: &[&str]) -> Program {
    Program::spawn(python(script).args(arguments).env("AMQP_URL", &env.uri))
}

/// The Python server of methods that take a stream, which lets so many items be on their way.
async fn upload_server(env: &Env, queue: &str, window: u64) -> Program {
    let arguments = [&env.name(queue), &window.to_string()];
    let mut server = start(env, "upload_server.py", &arguments.map(String::as_str));
    server.line_with("Serving").await;
    server
}

/// Ends it. It has seen no broken rule of the protocol.
async fn stop_upload_server(server: Program) {
    server.signal(Signal::TERM);
    let ended = server.ended().await;
    assert!(!ended.printed.contains("broken"), "{}", ended.printed);
}
