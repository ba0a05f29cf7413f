//! `topology`: the queues and exchanges that Lepus uses, as far as they can be known.

mod diff;
mod export;
mod survey;

use clap::{Args, Subcommand};
use lepus::control::{DeclaredBinding, DeclaredExchange, DeclaredQueue};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// The version of the form of the file.
const VERSION: u32 = 1;

/// Exports the queues and exchanges in use, and compares them with a file
#[derive(Args)]
#[command(after_help = "Examples:
  lepus topology export > topology.json
  lepus topology diff topology.json")]
pub(crate) struct Topology {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(export::Export),
    Diff(diff::Diff),
}

impl Topology {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        match self.command {
            Command::Export(export) => export.run(app).await,
            Command::Diff(diff) => diff.run(app).await,
        }
    }
}

/// Queues, exchanges and bindings, in the order of their names.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// The version of the form.
    lepus_topology: u32,
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    bindings: Vec<DeclaredBinding>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    name: String,
    role: ExchangeRole,
    /// The declaration of its programs; `None` if they use it as it is, or do not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    declared: Option<DeclaredExchange>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    name: String,
    role: QueueRole,
    /// The service, the work queue, or the exchange of a group that it belongs to.
    of: String,
    /// The declaration of its programs; `None` if they use it as it is, or do not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    declared: Option<DeclaredQueue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExchangeRole {
    /// Carries events to groups.
    Events,
    /// Carries the questions of discovery.
    Control,
    /// Was named by the user.
    Named,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum QueueRole {
    /// Requests of a service, or of one of its methods.
    Service,
    /// Jobs.
    Work,
    /// Events of a group.
    Group,
    /// Dead letters.
    Dead,
    /// Was named by the user.
    Named,
}

impl QueueRole {
    /// Whether somebody has to consume it.
    fn is_consumed(self) -> bool {
        matches!(self, Self::Service | Self::Work | Self::Group)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Work => "work",
            Self::Group => "group",
            Self::Dead => "dead",
            Self::Named => "named",
        }
    }
}

impl ExchangeRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Control => "control",
            Self::Named => "named",
        }
    }
}
