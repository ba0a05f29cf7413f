//! Faults of the network: cuts, stalls, brokers that are away, and many clients that come
//! back at once. The numbers in the names are rows of the table in docs/reliability.md.

mod away;
mod cut;
mod stalled;

use lepus::{Connection, amqp::ConnectionState};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(10);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(40);
const SECOND: Duration = Duration::from_secs(1);

async fn until_lost(connection: &Connection) {
    let mut state = connection.state();
    let lost = state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. }));
    tokio::time::timeout(LONG, lost)
        .await
        .expect("the loss is seen")
        .expect("the connection is there");
}
