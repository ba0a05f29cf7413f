//! `ls`: the services, work queues, tasks and groups that run, or the methods of one.

use std::collections::BTreeMap;

use clap::Args;
use lepus::Discovery;
use lepus::control::{Answer, EndpointInfo, ServedKind, ServiceInfo};
use serde::Serialize;

use crate::answers::{collect, narrowed, nobody};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, note};

/// Lists what runs: services, work queues, tasks and groups; with a name, the methods of one
///
/// Programs are asked, so those whose connection has `control(false)` are not listed. It waits until no answer has come
/// for 300 ms.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus ls
  lepus ls calculator
  lepus ls -o json | jq -r '.[].name'")]
pub(crate) struct Ls {
    /// The service, the work queue, or the queue of the group, whose methods are listed
    service: Option<String>,
    /// The number of answers after which no more are waited for
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

/// All instances of what has one name.
#[derive(Serialize)]
struct Listed {
    name: String,
    kind: ServedKind,
    version: String,
    instances: usize,
    endpoints: usize,
    description: String,
}

/// A method, as one or more instances have it.
#[derive(Serialize)]
struct Method {
    service: String,
    instances: usize,
    #[serde(flatten)]
    endpoint: EndpointInfo,
}

impl Ls {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let question = narrowed(discovery.services(), self.service.as_deref(), self.expect);
        let answers = collect(question.stream().await).await?;
        match &self.service {
            Some(name) if answers.is_empty() => Err(nobody(Some(name))),
            Some(_) => app.out.records(&methods(&answers), methods_table),
            None => {
                if answers.is_empty() {
                    note("nobody serves anything");
                }
                app.out.records(&listed(&answers), table)
            }
        }?;
        Ok(Exit::Ok)
    }
}

fn listed(answers: &[Answer<ServiceInfo>]) -> Vec<Listed> {
    let mut by_name: BTreeMap<(&str, &str), Vec<&ServiceInfo>> = BTreeMap::new();
    for answer in answers {
        let key = (answer.name.as_str(), kind_name(answer.kind));
        by_name.entry(key).or_default().push(answer);
    }
    let listed = by_name.into_values().filter_map(|instances| {
        let first = instances.first()?;
        Some(Listed {
            name: first.name.clone(),
            kind: first.kind,
            version: versions(&instances),
            instances: instances.len(),
            endpoints: first.endpoints.len(),
            description: first.description.clone(),
        })
    });
    listed.collect()
}

/// The versions of the instances, of which there are several during a rollout.
fn versions(instances: &[&ServiceInfo]) -> String {
    let mut versions: Vec<&str> = instances.iter().map(|it| it.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.join(", ")
}

fn methods(answers: &[Answer<ServiceInfo>]) -> Vec<Method> {
    let mut methods: Vec<Method> = Vec::new();
    for answer in answers {
        for endpoint in &answer.endpoints {
            let known = methods
                .iter_mut()
                .find(|it| it.service == answer.name && it.endpoint == *endpoint);
            match known {
                Some(method) => method.instances += 1,
                None => methods.push(Method {
                    service: answer.name.clone(),
                    instances: 1,
                    endpoint: endpoint.clone(),
                }),
            }
        }
    }
    methods
}

fn table(listed: &[Listed]) -> Rows {
    let columns = [
        "NAME",
        "KIND",
        "VERSION",
        "#INSTANCES",
        "#METHODS",
        "DESCRIPTION",
    ];
    let mut rows = Rows::new(&columns);
    for it in listed {
        rows.row([
            it.name.clone(),
            kind_name(it.kind).to_owned(),
            it.version.clone(),
            it.instances.to_string(),
            it.endpoints.to_string(),
            it.description.clone(),
        ]);
    }
    rows
}

fn methods_table(methods: &[Method]) -> Rows {
    let columns = [
        "METHOD",
        "ARGUMENTS",
        "QUEUE",
        "TIMEOUT",
        "#INSTANCES",
        "DESCRIPTION",
    ];
    let mut rows = Rows::new(&columns);
    for Method {
        endpoint,
        instances,
        ..
    } in methods
    {
        rows.row([
            endpoint.name.clone(),
            endpoint.data.arguments.join(", "),
            endpoint.queue_group.clone(),
            timeout(endpoint),
            instances.to_string(),
            first_line(&endpoint.data.doc).to_owned(),
        ]);
    }
    rows
}

/// The timeout of a method, or `-` if it has none of its own.
pub(crate) fn timeout(endpoint: &EndpointInfo) -> String {
    match endpoint.data.timeout_ms {
        Some(millis) => crate::duration::show(std::time::Duration::from_millis(millis)),
        None => "-".to_owned(),
    }
}

/// The first line of a documentation.
pub(crate) fn first_line(doc: &str) -> &str {
    doc.lines().next().unwrap_or_default()
}

/// The kind as it is on the wire.
pub(crate) fn kind_name(kind: ServedKind) -> &'static str {
    match kind {
        ServedKind::Service => "service",
        ServedKind::Queue => "queue",
        ServedKind::Tasks => "tasks",
        ServedKind::Group => "group",
        _ => "unknown",
    }
}
