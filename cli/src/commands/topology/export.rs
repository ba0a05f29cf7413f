//! `topology export`: the queues and exchanges in use, as JSON.

use clap::Args;

use super::survey::survey;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Writes the queues, exchanges and bindings in use as JSON, for `lepus topology diff`
///
/// AMQP has no list of queues, and no way to read the properties of one. What the programs that run now tell is written:
/// the queues of services, workers and groups, their queues of dead letters, the exchanges of groups, and the bindings
/// that groups begin with, each with the declaration of its program (type, arguments) and if it exists on the broker.
/// The rest is not known and left out: queues and exchanges that nobody serves at the moment (name them with --queue and
/// --exchange; their declarations are not known), bindings that others have made, subscriptions with a queue of their own,
/// and the queues in which jobs wait for a delay.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus topology export > topology.json
  lepus topology export --queue task_queue --exchange logs")]
pub(crate) struct Export {
    /// Adds a queue, if it exists; may be given several times
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// Adds an exchange, if it exists; may be given several times
    #[arg(long = "exchange", value_name = "NAME")]
    exchanges: Vec<String>,
}

impl Export {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let document = survey(app, &self.queues, &self.exchanges).await?;
        app.out.json(&document)?;
        Ok(Exit::Ok)
    }
}
