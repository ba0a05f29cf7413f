//! `--repeat`: the same call again and again, and a summary.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::Call;
use super::target::{Body, Target};
use crate::app::App;
use crate::args::Format;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::latency::Summary;
use crate::progress::Progress;

/// The summary of the calls that were made.
#[derive(Serialize)]
struct Repeated {
    calls: u32,
    values: u32,
    own_errors: u32,
    /// The calls without a reply or with a status, by the text of their failure.
    failures: BTreeMap<String, u32>,
    seconds: f64,
    /// Of the calls that ended with a value or the method's own error.
    latency: Option<Summary>,
}

/// Makes the calls. It ends with the code of the first that did not return a value.
pub(super) async fn run(
    call: &Call,
    app: &App,
    mut target: Target,
    body: Body,
    count: u32,
) -> Result<Exit, Failure> {
    let mut repeated = Repeated {
        calls: count,
        values: 0,
        own_errors: 0,
        failures: BTreeMap::new(),
        seconds: 0.0,
        latency: None,
    };
    let mut latencies = Vec::new();
    let mut exit = Exit::Ok;
    let connection = app.connect().await?;
    target.look_up(connection, app.timeout()).await;
    call.form(&target)?;
    let started = Instant::now();
    let mut progress = Progress::new("calls", count.into());
    for done in 0..count {
        progress.at(done.into());
        let began = Instant::now();
        let ended = match call.reply(app, &mut target, &body).await {
            Ok(reply) => {
                latencies.push(began.elapsed());
                match reply.is_own_error() {
                    true => {
                        repeated.own_errors += 1;
                        Exit::OwnError
                    }
                    false => {
                        repeated.values += 1;
                        Exit::Ok
                    }
                }
            }
            // All others would fail in the same way.
            Err(failure) if done == 0 => return Err(failure),
            Err(failure) => {
                let name = failure.exit().name();
                *repeated.failures.entry(name).or_default() += 1;
                failure.exit()
            }
        };
        if exit == Exit::Ok {
            exit = ended;
        }
    }
    drop(progress);
    repeated.seconds = started.elapsed().as_secs_f64();
    repeated.latency = Summary::of(latencies);
    match app.out.format() {
        Format::Table => app.out.text(&text(&repeated, &target))?,
        Format::Json => app.out.json(&repeated)?,
        Format::Jsonl => app.out.line(&repeated)?,
    }
    Ok(exit)
}

fn text(repeated: &Repeated, target: &Target) -> String {
    let Repeated {
        calls,
        values,
        own_errors,
        seconds,
        ..
    } = repeated;
    let rate = f64::from(*calls) / seconds;
    let mut lines = vec![format!(
        "{calls} calls of {target} in {seconds:.3} s, {rate:.0} a second: {values} values, {own_errors} own errors"
    )];
    for (name, count) in &repeated.failures {
        lines.push(format!("{count} failed: {name}"));
    }
    if let Some(latency) = &repeated.latency {
        lines.extend(latency.lines());
    }
    lines.join("\n")
}
