//! `events tail`: the events of an exchange as they come.

use clap::Args;
use lepus::amqp::ConnectionState;
use lepus::amqp::Value;
use lepus::events::{Kind, Match, Missed, RoutingKey, Subscription, Undecodable};
use lepus::{Connection, Direct, Error, Event, Headers};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::about_exchange;
use crate::app::App;
use crate::args::Format;
use crate::documents;
use crate::exit::Exit;
use crate::failure::{Failure, with_causes};
use crate::message;
use crate::output;

/// Shows the events of an exchange as they come, until Ctrl-C
///
/// They are received by an exclusive queue of this command's own, so that nobody else gets fewer. Events that were
/// published before are not seen. If the output is slower than the events, the oldest are dropped, and their number is
/// told on stderr; so is a time in which the connection was lost.
///
/// The exchange has to exist, and may be of any type. A direct exchange needs --bind with the keys; the other types
/// give all of their events without it.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus events tail logs
  lepus events tail logs --bind 'kern.*' --bind '*.critical'
  lepus events tail orders --type order.paid -o jsonl | jq .body
  lepus events tail reports --match format=pdf")]
pub(crate) struct Tail {
    /// The exchange
    #[arg(value_name = "EXCHANGE")]
    exchange: String,
    /// A binding key: a pattern for a topic exchange, a key for a direct one; may be given several times
    #[arg(
        long = "bind",
        value_name = "KEY",
        default_value = "#",
        conflicts_with = "matches"
    )]
    keys: Vec<String>,
    /// A header that events of a headers exchange need to have; may be given several times, and all have to match
    #[arg(long = "match", value_name = "NAME=VALUE", value_parser = documents::header)]
    matches: Vec<(String, Value)>,
    /// Shows the events of this type alone
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Ends after so many events
    #[arg(short = 'n', long, value_name = "NUMBER")]
    number: Option<u64>,
}

/// The losses of the connection, told when they happen: what was missed is known when it is back only.
struct Losses {
    state: watch::Receiver<ConnectionState>,
    is_lost: bool,
}

impl Losses {
    fn of(connection: &Connection) -> Self {
        Self {
            state: connection.state(),
            is_lost: false,
        }
    }

    /// Waits for the next loss. If the future is dropped, none is missed.
    async fn next(&mut self) -> String {
        loop {
            if self.state.changed().await.is_err() {
                // The end of the connection ends the events too.
                return std::future::pending().await;
            }
            match &*self.state.borrow_and_update() {
                ConnectionState::Reconnecting { error, .. } if !self.is_lost => {
                    self.is_lost = true;
                    return format!(
                        "warning: the connection is lost, and opened again when the broker is back: {}",
                        with_causes(error)
                    );
                }
                ConnectionState::Connected => self.is_lost = false,
                _ => {}
            }
        }
    }
}

#[derive(Serialize)]
struct Shown {
    key: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    published_at: Option<String>,
    app: Option<String>,
    content_type: Option<String>,
    headers: serde_json::Value,
    body: Option<Box<RawValue>>,
}

impl Tail {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let connection = app.connect().await?;
        let failure = |error| about_exchange(error, &self.exchange);
        if !self.matches.is_empty() {
            let exchange = Headers::<IgnoredAny>::new(&self.exchange).passive();
            let mut headers = Match::all();
            for (name, value) in &self.matches {
                headers = headers.header(name, value.clone());
            }
            let subscribe = exchange.subscribe(connection).bind(headers);
            let events = subscribe.stream().await.map_err(failure)?;
            return self.show(app, events).await;
        }
        // A passive declaration does not name the type of the exchange.
        let exchange = Direct::<IgnoredAny>::new(&self.exchange).passive();
        let mut subscribe = exchange.subscribe(connection);
        for key in &self.keys {
            let key = RoutingKey::literal(key).map_err(Error::from)?;
            subscribe = subscribe.bind(key);
        }
        let events = subscribe.stream().await.map_err(failure)?;
        self.show(app, events).await
    }

    async fn show<K: Kind>(
        &self,
        app: &App,
        mut events: Subscription<K, IgnoredAny>,
    ) -> Result<Exit, Failure> {
        output::note(&format!("waiting for events of `{}`", self.exchange));
        let closed = output::closed();
        tokio::pin!(closed);
        let mut losses = Losses::of(app.connect().await?);
        let mut left = self.number.unwrap_or(u64::MAX);
        while left > 0 {
            let next = tokio::select! {
                biased;
                () = &mut closed => return Ok(Exit::Ok),
                text = losses.next() => {
                    output::note(&text);
                    continue;
                }
                next = events.next() => next,
            };
            let shown = match next {
                None => {
                    return Err(Failure::new(Exit::Connect, "the connection was closed"));
                }
                Some(Ok(event)) => Shown::event(&event),
                // Nothing is known of its codec, which is no reason not to show it.
                Some(Err(Missed::Undecodable(event) | Missed::UnknownType(event))) => {
                    Shown::undecodable(&event)
                }
                Some(Err(missed)) => {
                    output::note(&with_causes(&missed));
                    continue;
                }
            };
            let is_wanted = |wanted: &String| shown.event_type.as_ref() == Some(wanted);
            if !self.event_type.as_ref().is_none_or(is_wanted) {
                continue;
            }
            match app.out.format() {
                Format::Table => app.out.text_apart(shown.line()).await?,
                Format::Json | Format::Jsonl => app.out.line_apart(&shown).await?,
            }
            left -= 1;
        }
        Ok(Exit::Ok)
    }
}

/// The facts of an event, of either type, which have the same methods.
macro_rules! shown {
    ($event:expr) => {{
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Shown {
            key: $event.key().to_owned(),
            event_type: owned($event.event_type()),
            id: owned($event.message_id()),
            published_at: $event.timestamp().and_then(message::time),
            app: owned($event.app_id()),
            content_type: owned($event.content_type()),
            headers: message::headers($event.headers()),
            body: message::raw(&message::body($event.content_type(), $event.bytes())),
        }
    }};
}

impl Shown {
    fn event(event: &Event<IgnoredAny>) -> Self {
        shown!(event)
    }

    fn undecodable(event: &Undecodable) -> Self {
        shown!(event)
    }

    /// The event on one line: key, type, headers, body.
    fn line(&self) -> String {
        let mut parts = vec![match self.key.as_str() {
            "" => "\"\"".to_owned(),
            key => output::printable(key),
        }];
        if let Some(event_type) = &self.event_type {
            parts.push(format!("[{}]", output::printable(event_type)));
        }
        let headers = message::headers_line(&self.headers);
        if !headers.is_empty() {
            parts.push(output::printable(&headers));
        }
        let body = self.body.as_deref().map(RawValue::get);
        parts.extend(body.map(output::printable));
        parts.join(" ")
    }
}
