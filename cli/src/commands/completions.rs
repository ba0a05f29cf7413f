//! `completions`: scripts that complete commands and options in a shell, and the manual page.

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use crate::app::App;
use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;

/// Writes the completion script of a shell, or the manual page
#[derive(Args)]
#[command(after_help = "Examples:
  lepus completions bash > /etc/bash_completion.d/lepus
  lepus completions zsh > \"${fpath[1]}/_lepus\"
  lepus completions fish > ~/.config/fish/completions/lepus.fish
  lepus completions man > /usr/local/share/man/man1/lepus.1")]
pub(crate) struct Completions {
    /// The shell, or `man`
    #[arg(value_name = "SHELL")]
    kind: Kind,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    /// The manual page lepus(1)
    Man,
}

impl Completions {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let mut command = Cli::command();
        let mut script = Vec::new();
        let shell = match self.kind {
            Kind::Bash => Shell::Bash,
            Kind::Elvish => Shell::Elvish,
            Kind::Fish => Shell::Fish,
            Kind::Powershell => Shell::PowerShell,
            Kind::Zsh => Shell::Zsh,
            Kind::Man => {
                clap_mangen::Man::new(command).render(&mut script)?;
                app.out.bytes(&script)?;
                return Ok(Exit::Ok);
            }
        };
        clap_complete::generate(shell, &mut command, "lepus", &mut script);
        app.out.bytes(&script)?;
        Ok(Exit::Ok)
    }
}
