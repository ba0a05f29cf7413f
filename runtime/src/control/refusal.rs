//! Refusals of the control plane: a user may not declare its exchange or its queues, or not publish to it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::wire::envelope::CONTROL_EXCHANGE;
use crate::wire::reply_code;

/// Reports that the broker refuses the control plane to a connection: with one warning, however many of its parts
/// notice it.
#[derive(Debug, Default)]
pub(crate) struct ControlRefusal {
    is_reported: AtomicBool,
}

impl ControlRefusal {
    /// Whether an error is a refusal, which does not end by itself.
    pub(crate) fn is(error: &Error) -> bool {
        matches!(
            error.amqp_code(),
            Some(reply_code::ACCESS_REFUSED | reply_code::PRECONDITION_FAILED)
        )
    }

    pub(crate) fn report(&self, error: &Error) {
        if self.is_reported.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, exchange = CONTROL_EXCHANGE, "broker refuses the control plane");
            return;
        }
        tracing::warn!(
            %error,
            exchange = CONTROL_EXCHANGE,
            "broker refuses the control plane: this process does not answer questions about its services, and \
             handlers of calls that are dropped run on; all else works"
        );
    }
}
