//! Arguments that all commands have.

use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::commands::Command;
use crate::duration;

/// Calls services, shows what runs, and tests it, over any RabbitMQ.
///
/// The broker is that of --url, of --context, of LEPUS_URL, of AMQP_URL, of the context `default`, or
/// amqp://localhost, in this order.
///
/// Contexts are lines `name = URL` of the file `lepus/contexts` in $XDG_CONFIG_HOME or ~/.config. Values go to stdout,
/// everything else to stderr.
///
/// Exit codes: 0; 1 usage; 2 cannot connect; 3 the method's own error; 4 nobody serves it; 5 the output cannot be
/// written; 64 + gRPC's code for a status; 130 interrupted. `lepus check` ends with 0 to 3 as monitoring plugins do.
#[derive(Parser)]
#[command(
    name = "lepus",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Examples:
  lepus broker &
  lepus ls
  lepus call calculator.divide dividend=84 divisor=2
  lepus help call"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The broker, such as amqp://user:password@host/vhost
    #[arg(long, global = true, value_name = "URL", conflicts_with = "context")]
    pub(crate) url: Option<String>,
    /// A name from the contexts file
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The prefix of the names of all queues and exchanges; also LEPUS_NAMESPACE
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) namespace: Option<String>,
    /// The longest time to wait, for a connection and then for an answer: 5s, 300ms, 2m
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = timeout)]
    pub(crate) timeout: Duration,
    /// The form of the output
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: Format,
    /// Logs to stderr: -v warnings and the steps of the connection, -vv and -vvv more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Parses a timeout, in which something can happen.
fn timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => {
            Err("the shortest timeout is longer than nothing, such as 10ms".to_owned())
        }
        timeout => Ok(timeout),
    }
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// A JSON document a line
    Jsonl,
}
