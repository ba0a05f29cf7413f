//! Report of a check, in the forms that monitoring reads.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use super::ReportFormat;
use crate::exit::{Exit, Level};
use crate::failure::Failure;
use crate::output::printable;

/// The result of a check.
#[derive(Debug)]
pub(super) struct Report {
    /// `service` or `queue`.
    kind: &'static str,
    name: String,
    facts: Vec<String>,
    problems: Vec<(Level, String)>,
    figures: Vec<Figure>,
}

/// A number, with its limits as Nagios writes them.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    #[serde(skip)]
    pub(super) help: &'static str,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    #[serde(skip)]
    pub(super) warning: Option<String>,
    #[serde(skip)]
    pub(super) critical: Option<String>,
}

impl Report {
    pub(super) fn new(kind: &'static str, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            facts: Vec::new(),
            problems: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub(super) fn fact(&mut self, text: &str) {
        self.facts.push(one_line(text));
    }

    pub(super) fn problem(&mut self, level: Level, text: &str) {
        self.problems.push((level, one_line(text)));
    }

    pub(super) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// The worst of its problems.
    pub(super) fn level(&self) -> Level {
        let levels = self.problems.iter().map(|(level, _)| *level);
        levels.max().unwrap_or(Level::Ok)
    }

    /// # Errors
    /// It cannot be written as JSON.
    pub(super) fn render(&self, format: ReportFormat) -> Result<String, Failure> {
        match format {
            ReportFormat::Text => Ok(format!("{}: {}", self.level().name(), self.text())),
            ReportFormat::Nagios => Ok(self.nagios()),
            ReportFormat::Prometheus => Ok(self.prometheus()),
            ReportFormat::Json => {
                let problems = self.problems.iter();
                let report = json!({
                    "check": self.kind,
                    "name": self.name,
                    "status": self.level().name(),
                    "problems": problems.map(|(level, text)| json!({"status": level.name(), "text": text})).collect::<Vec<_>>(),
                    "figures": self.figures,
                });
                serde_json::to_string(&report)
                    .map_err(|error| Failure::new(Exit::Internal, error.to_string()))
            }
        }
    }

    /// The subject, its problems, and the facts.
    fn text(&self) -> String {
        let problems = self.problems.iter().map(|(_, text)| text);
        let parts: Vec<&str> = problems.chain(&self.facts).map(String::as_str).collect();
        format!(
            "{} `{}`: {}",
            self.kind,
            printable(&self.name),
            parts.join(", ")
        )
    }

    /// `LEPUS OK - text | name=value;warning;critical …`
    fn nagios(&self) -> String {
        // A bar would begin the performance data.
        let text = self.text().replace('|', "/");
        let mut line = format!("LEPUS {} - {text}", self.level().name());
        for (index, figure) in self.figures.iter().enumerate() {
            let separator = if index == 0 { " |" } else { "" };
            let Figure {
                name, value, unit, ..
            } = figure;
            let warning = figure.warning.as_deref().unwrap_or_default();
            let critical = figure.critical.as_deref().unwrap_or_default();
            line = format!("{line}{separator} {name}={value}{unit};{warning};{critical}");
        }
        line
    }

    fn prometheus(&self) -> String {
        let escape = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            text.replace('\n', "\\n")
        };
        let labels = format!(
            "{{check=\"{}\",name=\"{}\"}}",
            self.kind,
            escape(&self.name)
        );
        let status = Figure {
            name: "status",
            help: "0 ok, 1 warning, 2 critical, 3 unknown",
            value: f64::from(self.level() as u8),
            unit: "",
            warning: None,
            critical: None,
        };
        let mut text = String::new();
        for Figure {
            name, help, value, ..
        } in std::iter::once(&status).chain(&self.figures)
        {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "# HELP lepus_check_{name} {help}\n# TYPE lepus_check_{name} gauge\nlepus_check_{name}{labels} {value}\n"
            );
        }
        text.trim_end().to_owned()
    }
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("queue", "a \"b\"|c");
        report.fact("12 messages ready, 0 consumers");
        report.problem(Level::Warning, "more than 10 messages are ready");
        report.problem(Level::Critical, "fewer than 1 consumers");
        report.figure(Figure {
            name: "ready",
            help: "Messages that are ready in the queue",
            value: 12.0,
            unit: "",
            warning: Some("10".to_owned()),
            critical: None,
        });
        report
    }

    #[test]
    fn a_report_has_the_worst_level() {
        assert_eq!(Report::new("queue", "resize").level(), Level::Ok);
        assert_eq!(report().level(), Level::Critical);
    }

    #[test]
    fn a_report_is_written_in_each_form() {
        let render = |format| report().render(format).unwrap();
        let text = "queue `a \"b\"|c`: more than 10 messages are ready, fewer than 1 consumers, 12 messages ready, 0 consumers";
        assert_eq!(render(ReportFormat::Text), format!("CRITICAL: {text}"));
        let nagios = format!("LEPUS CRITICAL - {} | ready=12;10;", text.replace('|', "/"));
        assert_eq!(render(ReportFormat::Nagios), nagios);
        let prometheus = render(ReportFormat::Prometheus);
        let labels = r#"{check="queue",name="a \"b\"|c"}"#;
        assert!(
            prometheus.contains(&format!("\nlepus_check_status{labels} 2\n")),
            "{prometheus}"
        );
        assert!(
            prometheus.ends_with(&format!("\nlepus_check_ready{labels} 12")),
            "{prometheus}"
        );
        let json: serde_json::Value = serde_json::from_str(&render(ReportFormat::Json)).unwrap();
        assert_eq!(json["status"], "CRITICAL");
        assert_eq!(json["figures"][0]["value"], 12.0);
        assert_eq!(json["problems"][0]["status"], "WARNING");
    }
}
