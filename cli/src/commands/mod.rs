//! Commands, one file each. A command is a `clap::Args` with `async fn run(self, app: &App) -> Result<Exit, Failure>`.
//! It is registered here: its module, and its line in the list.

mod bench;
mod broker;
mod call;
mod check;
mod completions;
mod dead;
mod events;
mod health;
mod info;
mod jobs;
mod ls;
mod ping;
mod stats;
mod top;
mod topology;

use clap::Subcommand;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Defines the commands: their names, in the order of the help, and their types, whose docs are the help.
macro_rules! commands {
    ($($name:ident($type:ty),)*) => {
        #[derive(Subcommand)]
        pub(crate) enum Command {
            $($name($type),)*
        }

        impl Command {
            /// Runs the command. It is dropped at SIGINT and SIGTERM, unless it [handles](Self::handles_signals) them.
            pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
                match self {
                    $(Self::$name(command) => command.run(app).await,)*
                }
            }
        }
    };
}

commands! {
    Ls(ls::Ls),
    Info(info::Info),
    Stats(stats::Stats),
    Ping(ping::Ping),
    Health(health::Health),
    Top(top::Top),
    Call(call::Call),
    Jobs(jobs::Jobs),
    Dead(dead::Dead),
    Events(events::Events),
    Topology(topology::Topology),
    Check(check::Check),
    Bench(bench::Bench),
    Broker(broker::Broker),
    Completions(completions::Completions),
}

impl Command {
    /// Whether the command stops by itself at a signal, by `lepus::shutdown_signal`.
    pub(crate) fn handles_signals(&self) -> bool {
        match self {
            Self::Bench(_) | Self::Broker(_) => true,
            Self::Dead(dead) => dead.handles_signals(),
            _ => false,
        }
    }
}
