//! Consumers (`basic.consume`): deliveries are received, handled and settled, and drained on shutdown. Servers,
//! work queues and subscriptions share them.

mod handler;
mod in_flight;
mod inline;
mod report;
mod run;
mod running;
mod setup;
mod source;
mod state;

pub(crate) use handler::{Handler, Settlement};
#[cfg(test)]
pub(crate) use in_flight::handle_delivery;
pub(crate) use inline::INLINE_BUDGET;
pub(crate) use report::report_loss;
pub(crate) use run::Worker;
pub(crate) use running::Kept;
pub use running::{Running, Until};
pub(crate) use setup::Setup;
pub(crate) use source::{OnLoss, Source};
pub use state::{ConsumerState, ConsumerStatus, RunningState, RunningWatch};
pub(crate) use state::{ConsumerView, Consumers};
