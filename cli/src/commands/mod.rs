//! Commands, one file each. A command is a `clap::Args` with `async fn run(self, app: &App) -> Result<Exit, Failure>`.
//! It is registered here: its module, and its line in the list.

mod bench;
mod broker;
mod call;
mod check;
mod completions;
mod health;
mod info;
mod ls;
mod ping;
mod stats;

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
    Call(call::Call),
    Check(check::Check),
    Bench(bench::Bench),
    Broker(broker::Broker),
    Completions(completions::Completions),
}

impl Command {
    /// Whether the command stops by itself at a signal, by `lepus::shutdown_signal`.
    pub(crate) fn handles_signals(&self) -> bool {
        matches!(self, Self::Bench(_) | Self::Broker(_))
    }
}
