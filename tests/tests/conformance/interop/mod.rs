//! Peers in other languages and of other clients.

use lepus_tests::Env;
use lepus_tests::process::{Program, python};
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
