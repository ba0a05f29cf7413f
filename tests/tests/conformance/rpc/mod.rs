//! Remote procedure calls.

mod bad_input;
mod calls;
mod coalesce;
mod errors;
