//! Remote procedure calls.

mod bad_input;
mod calls;
mod cancel;
mod coalesce;
mod contracts;
mod errors;
mod fail_fast;
mod layers;
mod local;
mod queues;
mod shapes;
mod tower;
mod unsent;
mod workers;

use std::time::Duration;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
