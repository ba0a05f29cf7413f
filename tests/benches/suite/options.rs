//! The options of the command line.

use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "usage: tests/bench [rpc|jobs|pubsub|streams|broker|local|flat|all]... \
[--rounds N] [--seconds S] [--only TEXT] [--full] [--beside PROGRAM]";

/// The comparisons to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Rpc,
    Jobs,
    PubSub,
    Streams,
    Broker,
    Local,
    Flat,
}

impl Group {
    pub const ALL: [Group; 7] = [
        Group::Rpc,
        Group::Jobs,
        Group::PubSub,
        Group::Streams,
        Group::Broker,
        Group::Local,
        Group::Flat,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Group::Rpc => "rpc",
            Group::Jobs => "jobs",
            Group::PubSub => "pubsub",
            Group::Streams => "streams",
            Group::Broker => "broker",
            Group::Local => "local",
            Group::Flat => "flat",
        }
    }
}

#[derive(Debug)]
pub struct Options {
    pub groups: Vec<Group>,
    pub rounds: usize,
    /// The time for which each entry is measured in each round.
    pub time: Duration,
    /// Every case instead of those that tell the most.
    pub full: bool,
    /// A text that the title of a comparison must contain.
    pub only: String,
    /// Another build of this program, to compare this one with.
    pub beside: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            groups: Vec::new(),
            rounds: 3,
            time: Duration::from_secs(3),
            full: false,
            only: String::new(),
            beside: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--full" => options.full = true,
                "--only" => options.only = value(argument, arguments.next())?.clone(),
                "--beside" => options.beside = Some(value(argument, arguments.next())?.into()),
                "--rounds" => options.rounds = number(argument, arguments.next())?,
                "--seconds" => {
                    let seconds = number(argument, arguments.next())?;
                    options.time = Duration::try_from_secs_f64(seconds)
                        .map_err(|error| format!("{argument}: {error}"))?;
                }
                "all" => options.groups.extend(Group::ALL),
                name => {
                    let group = Group::ALL.into_iter().find(|group| group.name() == name);
                    let group = group.ok_or_else(|| format!("`{name}` is nothing to measure"))?;
                    options.groups.push(group);
                }
            }
        }
        if options.groups.is_empty() {
            options.groups.extend(Group::ALL);
        }
        if options.rounds == 0 || options.time.is_zero() {
            return Err("nothing is measured in no time".into());
        }
        Ok(options)
    }
}

fn value<'a>(option: &str, value: Option<&'a String>) -> Result<&'a String, String> {
    value.ok_or_else(|| format!("{option} wants a value"))
}

fn number<T: std::str::FromStr>(option: &str, text: Option<&String>) -> Result<T, String> {
    let text = value(option, text)?;
    text.parse()
        .map_err(|_| format!("{option}: `{text}` is no number"))
}
