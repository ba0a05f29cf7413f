//! Log reports of consumers that cannot be set up, or that were lost.

use std::time::Duration;

use tokio::time::Instant;

use super::source::Source;
use crate::error::Error;
use crate::policy::refusal;

/// The interval at which a set-up that keeps failing is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Logs the loss of a channel. A channel that the broker has closed is an error that an operator has to
/// know of; the loss of a connection is logged by the connection itself.
pub(crate) fn report_loss(queue: &str, error: &Error) {
    if refusal::overdue(error).is_some() {
        tracing::error!(
            queue,
            %error,
            "a delivery was not acknowledged within the broker's consumer_timeout: the broker closed \
             the channel and delivers all unacknowledged deliveries again"
        );
    } else if error.amqp_code().is_some() {
        tracing::error!(queue, %error, "the broker closed the consumer's channel");
    } else {
        tracing::debug!(queue, %error, "the consumer was lost with its connection");
    }
}

/// The failed set-ups in a row since the queue was last consumed, for the log.
#[derive(Debug, Default)]
pub(super) struct SetupFailures {
    count: u32,
    /// The times of the first failure and of the latest report.
    since: Option<(Instant, Instant)>,
}

impl SetupFailures {
    /// Reports the first failure at ERROR, later ones once a minute at WARN, and all others at DEBUG.
    pub(super) fn report(&mut self, source: &Source, error: &Error) {
        let queue = source.queue.as_str();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        self.count = self.count.saturating_add(1);
        let failures = self.count;
        let now = Instant::now();
        match &mut self.since {
            None => {
                self.since = Some((now, now));
                tracing::error!(queue, %error, cause, "cannot consume the queue, trying again");
            }
            Some((first, last)) if now.duration_since(*last) >= REPORT_INTERVAL => {
                *last = now;
                let since = now.duration_since(*first);
                tracing::warn!(queue, %error, cause, failures, ?since, "still cannot consume the queue, trying again");
            }
            Some(_) => {
                tracing::debug!(queue, %error, cause, failures, "cannot consume the queue yet");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::wire::topology::Topology;
    use crate::worker::OnLoss;
    use std::fmt;
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// The level and the text of each event.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(Level, String)>>>);

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            struct Text(String);
            impl Visit for Text {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    if field.name() == "message" {
                        self.0 = format!("{value:?}");
                    }
                }
            }
            let mut text = Text(String::new());
            event.record(&mut text);
            let logged = (*event.metadata().level(), text.0);
            self.0.lock().unwrap().push(logged);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn source() -> Source {
        Source {
            topology: Topology::default(),
            queue: "jobs".into(),
            concurrency: 1,
            grace: Duration::ZERO,
            max_body: usize::MAX,
            on_loss: OnLoss::Drop,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_refused_for_long_is_reported_every_minute() {
        let (log, source) = (Log::default(), source());
        let error = Error::new(ErrorKind::Disconnected);
        let levels = || {
            let logged = std::mem::take(&mut *log.0.lock().unwrap());
            logged
                .into_iter()
                .map(|(level, _)| level)
                .collect::<Vec<_>>()
        };
        let _subscriber = tracing::subscriber::set_default(log.clone());
        for _ in 0..2 {
            let mut failures = SetupFailures::default();
            for seconds in [0, 30, 29, 1, 59, 1, 1] {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                failures.report(&source, &error);
            }
            let (error, warn, debug) = (Level::ERROR, Level::WARN, Level::DEBUG);
            let expected = [error, debug, debug, warn, debug, warn, debug];
            assert_eq!(levels(), expected);
        }
    }

    #[test]
    fn a_channel_that_the_broker_closed_is_reported_as_an_error() {
        let log = Log::default();
        let _subscriber = tracing::subscriber::set_default(log.clone());
        let refused = |text: &str| {
            let text = text.to_owned();
            Error::new(ErrorKind::Broker { code: 406, text })
        };
        report_loss("jobs", &Error::new(ErrorKind::Disconnected));
        report_loss(
            "jobs",
            &refused("PRECONDITION_FAILED - unknown delivery tag 7"),
        );
        report_loss(
            "jobs",
            &refused("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"),
        );
        let logged = log.0.lock().unwrap().clone();
        let levels: Vec<_> = logged.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::DEBUG, Level::ERROR, Level::ERROR]);
        assert!(logged[2].1.contains("consumer_timeout"), "{logged:?}");
    }
}
