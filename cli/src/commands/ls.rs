//! `ls`: the services, work queues and groups that run.

use std::collections::BTreeMap;

use clap::Args;
use lepus::Discovery;
use lepus::control::{ServedKind, ServiceInfo};
use serde::Serialize;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Rows;

/// Lists what runs: services, work queues, tasks and groups
#[derive(Args)]
#[command(after_help = "Examples:
  lepus ls
  lepus ls -o json | jq -r '.[].name'")]
pub(crate) struct Ls {}

#[derive(Serialize)]
struct Listed {
    name: String,
    kind: ServedKind,
    version: String,
    instances: usize,
    endpoints: usize,
    description: String,
}

impl Ls {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let answers = discovery.services().await?;
        let mut by_name: BTreeMap<String, Vec<&ServiceInfo>> = BTreeMap::new();
        for answer in &answers {
            by_name.entry(answer.name.clone()).or_default().push(answer);
        }
        let listed: Vec<Listed> = by_name
            .into_iter()
            .filter_map(|(name, infos)| {
                let first = infos.first()?;
                Some(Listed {
                    name,
                    kind: first.kind,
                    version: first.version.clone(),
                    instances: infos.len(),
                    endpoints: first.endpoints.len(),
                    description: first.description.clone(),
                })
            })
            .collect();
        app.out.records(&listed, |listed| {
            let mut rows = Rows::new(&[
                "NAME",
                "KIND",
                "VERSION",
                "#INSTANCES",
                "#METHODS",
                "DESCRIPTION",
            ]);
            for it in listed {
                let (instances, endpoints) = (it.instances.to_string(), it.endpoints.to_string());
                rows.row([
                    it.name.clone(),
                    kind_name(it.kind).to_owned(),
                    it.version.clone(),
                    instances,
                    endpoints,
                    it.description.clone(),
                ]);
            }
            rows
        })?;
        Ok(Exit::Ok)
    }
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
