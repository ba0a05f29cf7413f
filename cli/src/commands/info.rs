//! `info`: the description of a service and of its instances.

use clap::Args;
use lepus::Discovery;
use lepus::control::{Answer, EndpointInfo, ServiceInfo};

use super::ls::{kind_name, timeout};
use crate::answers::{collect, narrowed, nobody};
use crate::app::App;
use crate::args::Format;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, printable};

/// Describes a service: its methods with their arguments and documentation, and its instances
#[derive(Args)]
#[command(after_help = "Examples:
  lepus info calculator
  lepus info calculator 4hYQ0wBzq1RkXo2sVnT8eL
  lepus info calculator -o json | jq '.[0].endpoints[].name'")]
pub(crate) struct Info {
    /// The service, the work queue, or the queue of the group
    service: String,
    /// The id of one instance, as it is listed without it
    instance: Option<String>,
    /// The number of answers after which no more are waited for
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

impl Info {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let question = match &self.instance {
            Some(id) => discovery.services().instance(id),
            None => discovery.info(&self.service),
        };
        let question = narrowed(question, None, self.expect);
        let mut answers = collect(question.stream().await).await?;
        if let Some(id) = &self.instance {
            // An instance tells all that it serves.
            answers.retain(|answer| is_about(answer, &self.service));
            if answers.is_empty() {
                let text = format!(
                    "instance {id} does not answer, or does not serve `{}`",
                    self.service
                );
                return Err(Failure::new(Exit::Unserved, text));
            }
        }
        let Some(first) = answers.first() else {
            return Err(nobody(Some(&self.service)));
        };
        match app.out.format() {
            Format::Table => {
                app.out.text(&printable(&head(first)))?;
                app.out.table(methods(&first.endpoints))?;
                app.out.text("")?;
                app.out.table(instances(&answers))?;
            }
            Format::Json | Format::Jsonl => {
                let infos: Vec<&ServiceInfo> = answers.iter().map(|answer| &**answer).collect();
                app.out.records(&infos, |_| Rows::new(&[]))?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// Whether an answer is about a service, a work queue, or the queue of a group, of this name.
fn is_about(info: &ServiceInfo, name: &str) -> bool {
    info.name == name || info.endpoints.iter().any(|it| it.queue_group == name)
}

fn head(info: &ServiceInfo) -> String {
    let mut text = format!(
        "{} ({}), version {}\n",
        info.name,
        kind_name(info.kind),
        info.version
    );
    if !info.description.is_empty() {
        text = format!("{text}{}\n", info.description);
    }
    text
}

fn methods(endpoints: &[EndpointInfo]) -> Rows {
    let columns = [
        "METHOD",
        "ARGUMENTS",
        "QUEUE",
        "TIMEOUT",
        "CODEC",
        "OPTIONS",
        "DESCRIPTION",
    ];
    let mut rows = Rows::new(&columns);
    for endpoint in endpoints {
        let data = &endpoint.data;
        let options = [
            ("idempotent", data.idempotent),
            ("oneway", data.oneway),
            ("at most once", data.at_most_once),
            ("bare", data.bare),
            ("stream", data.stream.is_some()),
        ];
        let options = options.into_iter().filter(|(_, is_set)| *is_set);
        rows.row([
            endpoint.name.clone(),
            data.arguments.join(", "),
            endpoint.queue_group.clone(),
            timeout(endpoint),
            data.codec.clone(),
            options.map(|(name, _)| name).collect::<Vec<_>>().join(", "),
            data.doc.clone(),
        ]);
    }
    rows
}

fn instances(answers: &[Answer<ServiceInfo>]) -> Rows {
    let mut rows = Rows::new(&["INSTANCE", "VERSION", "STARTED", "METADATA"]);
    for answer in answers {
        let metadata = answer.metadata.iter();
        let metadata = metadata.map(|(name, value)| format!("{name}={value}"));
        rows.row([
            answer.id.clone(),
            answer.version.clone(),
            answer.started.clone(),
            metadata.collect::<Vec<_>>().join(", "),
        ]);
    }
    rows
}
