//! `completions`: scripts that complete commands and options in a shell, and the manual page.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory as _, ValueEnum};
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
  lepus completions man --into /usr/local/share/man/man1")]
pub(crate) struct Completions {
    /// The shell, or `man`
    #[arg(value_name = "SHELL")]
    kind: Kind,
    /// With `man`: writes a page for each command into this folder
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
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
            Kind::Man => return self.manual(app, command),
        };
        if self.into.is_some() {
            return Err(Failure::usage("--into is for the pages of the manual"));
        }
        clap_complete::generate(shell, &mut command, "lepus", &mut script);
        app.out.bytes(&script)?;
        Ok(Exit::Ok)
    }

    fn manual(&self, app: &App, command: Command) -> Result<Exit, Failure> {
        match &self.into {
            Some(folder) => clap_mangen::generate_to(command, folder).map_err(|error| {
                let folder = folder.display();
                Failure::usage(format!("no page can be written into {folder}: {error}"))
            })?,
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(command).render(&mut page)?;
                app.out.bytes(&page)?;
            }
        }
        Ok(Exit::Ok)
    }
}
