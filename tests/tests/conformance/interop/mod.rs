//! Peers in other languages and of other clients.

use tokio::sync::Mutex;

mod clients;
mod python;
mod streams;
mod tutorials;

/// The tutorials call this queue `rpc_queue` on every broker: one test at a time uses it.
static RPC_QUEUE: Mutex<()> = Mutex::const_new(());
