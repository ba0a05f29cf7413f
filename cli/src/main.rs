//! `lepus`, the command: calls services, shows what runs, and tests it, over any RabbitMQ.

mod answers;
mod app;
mod args;
mod commands;
mod condition;
mod contexts;
mod documents;
mod duration;
mod exit;
mod failure;
mod figures;
mod json_text;
mod latency;
mod message;
mod output;
mod progress;
mod work_queues;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime;

use app::App;
use args::Cli;
use exit::Exit;
use failure::Failure;

/// The worker threads of the runtime: the commands wait for a broker, and compute little.
const THREADS: usize = 2;
/// The longest time that the end of the program waits for the broker to confirm the close of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version, which the user asked for, go to stdout. Nothing can be done if nobody reads.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            }
            .into();
        }
    };
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit().into()
        }
    }
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    let Cli { globals, command } = cli;
    output::start_log(globals.verbose);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("no threads: {error}")))?;
    let app = App::new(globals);
    let result = runtime.block_on(async {
        let stop = lepus::shutdown_signal();
        let result = if command.handles_signals() {
            drop(stop);
            command.run(&app).await
        } else {
            // The command is dropped at the signal, and with it what it waits for: a call is cancelled.
            tokio::select! {
                biased;
                result = command.run(&app) => result,
                () = stop => Ok(Exit::Interrupted),
            }
        };
        // The broker closes the connection by itself when the process has ended.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, app.close()).await;
        result
    });
    // A thread may wait for stdin, which nothing ends.
    runtime.shutdown_background();
    result
}
