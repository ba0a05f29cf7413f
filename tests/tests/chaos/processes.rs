//! Servers and workers in processes of their own, killed and frozen; what they print is told to
//! the judge.

use crate::book::Book;
use crate::dice::Dice;
use lepus_tests::Env;
use lepus_tests::process::{Program, Signal};
use std::sync::Arc;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

/// The number of processes at a time.
pub const PROCESSES: usize = 2;
/// Handlers of each kind in each.
pub const CONCURRENCY: u16 = 4;

/// The order that they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Torment,
    /// All of them work.
    Calm,
    /// They end in order.
    End,
}

fn hire(env: &Env) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos_peer"));
    command
        .arg(&env.uri)
        .arg(env.namespace())
        .arg(CONCURRENCY.to_string());
    Program::spawn(&mut command)
}

/// Keeps one process going, and kills and freezes it, until the end.
pub async fn keep(
    env: Arc<Env>,
    mut dice: Dice,
    mut phase: watch::Receiver<Phase>,
    book: Arc<Book>,
) {
    let mut program = hire(&env);
    let (mut is_ready, mut is_frozen, mut was_frozen) = (false, false, false);
    let mut next = Instant::now() + dice.millis(300, 2_500);
    loop {
        let now = *phase.borrow_and_update();
        if now != Phase::Torment && is_frozen {
            program.signal(Signal::CONT);
            is_frozen = false;
        }
        if now == Phase::End {
            break;
        }
        tokio::select! {
            line = program.any_line() => match line {
                Some(line) if line == "ready" => is_ready = true,
                Some(line) => tell(&line, was_frozen, &book),
                None => {
                    book.complain(format!("a process ended by itself: {}", program.printed()));
                    return;
                }
            },
            // Not until somebody tells: the sender outlives us.
            _ = phase.changed() => {}
            () = tokio::time::sleep_until(next), if now == Phase::Torment => {
                next = Instant::now() + dice.millis(300, 2_500);
                if is_frozen {
                    program.signal(Signal::CONT);
                    is_frozen = false;
                } else if is_ready && dice.below(2) == 0 {
                    book.process_lost("frozen");
                    program.signal(Signal::STOP);
                    (is_frozen, was_frozen) = (true, true);
                    // More than two heartbeats, every other time: it wakes up on a dead link.
                    next = Instant::now() + dice.millis(100, 6_000);
                } else {
                    book.process_lost("killed");
                    program.signal(Signal::KILL);
                    let ended = program.ended().await;
                    for line in ended.lines {
                        tell(&line, was_frozen, &book);
                    }
                    program = hire(&env);
                    (is_ready, was_frozen) = (false, false);
                }
            }
        }
    }
    program.signal(Signal::TERM);
    for line in program.succeeded().await {
        tell(&line, was_frozen, &book);
    }
}

fn tell(line: &str, was_frozen: bool, book: &Book) {
    match line.parse() {
        Ok(event) => book.process_told(event, was_frozen),
        Err(_) if line == "ready" => {}
        Err(error) => book.complain(error),
    }
}
