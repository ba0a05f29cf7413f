//! `top`: a live screen of services and queues.

mod rates;
mod sample;
mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use crate::app::App;
use crate::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use sample::Sampler;
use screen::Screen;

/// The events of the terminal that may wait.
const EVENTS: usize = 16;

/// Shows services and queues on a live screen: rates, latencies, errors, waiting jobs, dead letters
///
/// Keys: q or Ctrl-C ends it, s sorts by another column, the arrow keys scroll. Services are asked for their figures
/// over the control exchange; the queues are those of living instances, and those that are named.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus top
  lepus top --interval 5s
  lepus top task_queue            with a queue that no instance of Lepus serves

P95 is estimated from the buckets of a histogram, over the calls since the last look.")]
pub(crate) struct Top {
    /// Queues that are shown as well
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// The time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
}

/// Parses an interval. Shorter ones would ask again before all have answered.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < Duration::from_millis(500) {
        return Err("the shortest interval is 500ms".to_owned());
    }
    Ok(interval)
}

impl Top {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        if !app.out.is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "`top` needs a terminal; `lepus stats --watch 2s` is for pipes",
            ));
        }
        // Before the screen is taken, so that an error stays where it can be read.
        let connection = app.connect().await?.clone();
        let sampler = Sampler::new(connection, self.queues, self.interval);
        let mut samples = sampler.start();
        let mut events = terminal_events();
        let mut terminal = Terminal::open()?;
        let mut screen = Screen::new(app.out.has_colors());
        loop {
            terminal
                .0
                .draw(|frame| view::draw(frame, &mut screen))
                .map_err(no_terminal)?;
            tokio::select! {
                sample = samples.recv() => match sample {
                    Some(Ok(sample)) => screen.update(sample),
                    Some(Err(error)) => screen.failed(error),
                    None => return Ok(Exit::Ok),
                },
                event = events.recv() => match event {
                    Some(Ok(Event::Key(key))) if is_quit(key) => return Ok(Exit::Ok),
                    Some(Ok(Event::Key(key))) => screen.on_key(key),
                    // Drawn anew, in the new size.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(no_terminal(error)),
                    None => return Ok(Exit::Ok),
                },
            }
        }
    }
}

fn is_quit(key: KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            // In raw mode Ctrl-C is a key and no signal.
            KeyCode::Char('c') => is_control,
            _ => false,
        }
}

/// Reads the events of the terminal in a thread of its own, because nothing can end such a read.
fn terminal_events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, events) = mpsc::channel(EVENTS);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_end = event.is_err();
            if sender.blocking_send(event).is_err() || is_end {
                break;
            }
        }
    });
    events
}

/// The terminal in raw mode, with the alternate screen. It is restored when this is dropped: at the end, at an error,
/// and when a signal drops the command.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn open() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(no_terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done if the terminal is gone.
        let _ = ratatui::try_restore();
    }
}

fn no_terminal(error: io::Error) -> Failure {
    Failure::new(
        Exit::Internal,
        format!("the terminal cannot be used: {error}"),
    )
}
