//! `events publish`: an event, or one for each line of stdin.

use clap::Args;
use lepus::events::{EventPublisher, RoutingKey};
use lepus::{Codec, Direct, Error};

use super::about_exchange;
use crate::app::App;
use crate::documents::{self, Documents};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Publishes an event, and returns when each queue that it is routed to has stored it
///
/// The exchange has to exist, and may be of any type: a fanout exchange ignores the key, and a headers exchange routes
/// by the headers. If no queue takes the event, the exit code is 4, because a key is mistyped more often than nobody
/// listens.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus events publish logs kern.critical '\"no more memory\"'
  lepus events publish orders order.paid '{\"id\": 7}' --type order.paid -H tenant=hare
  lepus events publish logs '' --text 'to a fanout exchange'
  jq -c '.[]' events.json | lepus events publish orders order.placed -")]
pub(crate) struct Publish {
    /// The exchange
    #[arg(value_name = "EXCHANGE")]
    exchange: String,
    /// The routing key
    #[arg(value_name = "KEY")]
    key: String,
    /// The payload: JSON, @FILE, or - for a line of stdin each
    #[arg(value_name = "JSON")]
    payload: String,
    /// The type of the event, if the exchange carries several
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// A header
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = documents::header)]
    headers: Vec<(String, lepus::amqp::Value)>,
    /// In durable queues the event outlives a restart of the broker
    #[arg(long)]
    persistent: bool,
    /// It is no failure if no queue takes the event
    #[arg(long)]
    unrouted_ok: bool,
    /// The payload is a text and not JSON, and is sent as it is (text/plain)
    #[arg(long)]
    text: bool,
}

impl Publish {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let mut documents = Documents::open(&self.payload)?;
        if !self.text {
            documents.check()?;
        }
        let key = RoutingKey::literal(&self.key).map_err(Error::from)?;
        let connection = app.connect().await?;
        // A passive declaration does not name the type of the exchange.
        let mut json = Direct::new(&self.exchange).codec(Codec::Json).passive();
        let mut text = Direct::text(&self.exchange).passive();
        if let Some(event_type) = &self.event_type {
            json = json.event_type(event_type);
            text = text.event_type(event_type);
        }
        let (json, text) = (json.publisher(connection), text.publisher(connection));
        let mut published = 0_u64;
        loop {
            let next = if self.text {
                let next = documents.next_text().await?;
                next.map(|line| self.prepare(app, &text, &key, &line))
            } else {
                let next = documents.next().await?;
                next.map(|value| self.prepare(app, &json, &key, &value))
            };
            let Some(publish) = next else {
                return Ok(Exit::Ok);
            };
            if let Err(error) = publish.await {
                if published > 0 {
                    output::note(&format!("{published} events were published before"));
                }
                return Err(self.failure(error));
            }
            published += 1;
        }
    }

    fn prepare<T: serde::Serialize>(
        &self,
        app: &App,
        publisher: &EventPublisher<lepus::events::ByKey, T>,
        key: &RoutingKey,
        payload: &T,
    ) -> lepus::events::Publish {
        let mut publish = publisher.publish(key.clone(), payload);
        publish = publish.timeout(app.timeout());
        publish = publish.headers(self.headers.iter().cloned().collect());
        if self.persistent {
            publish = publish.persistent();
        }
        if !self.unrouted_ok {
            publish = publish.mandatory();
        }
        publish
    }

    fn failure(&self, error: Error) -> Failure {
        if error.is_unroutable() {
            let Self { exchange, key, .. } = self;
            return Failure::new(
                Exit::Unserved,
                format!(
                    "no queue takes the event `{key}` of `{exchange}`: nobody is bound by that key"
                ),
            );
        }
        about_exchange(error, &self.exchange)
    }
}
