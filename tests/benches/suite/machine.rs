//! The machine that the figures were measured on.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Serialize)]
pub struct Machine {
    /// Seconds since the Unix epoch, and the same as UTC.
    pub time: u64,
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    pub rabbitmq: String,
    /// Processes that were ready to run, over a minute: before and after. Others' work shows here.
    pub load: [String; 2],
}

impl Machine {
    pub fn look(rabbitmq: Option<&str>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = now.map_or(0, |since| since.as_secs());
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split(": ").nth(1));
        Self {
            time,
            date: output("date", &["-u", "-d", &format!("@{time}"), "+%F %H:%M UTC"]),
            cpu: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: output("uname", &["-sr"]),
            rustc: output("rustc", &["--version"]),
            rabbitmq: rabbitmq.unwrap_or("unknown").to_owned(),
            load: [load(), String::new()],
        }
    }

    pub fn finish(&mut self) {
        self.load[1] = load();
    }
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".into())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = &self.load;
        write!(
            f,
            "{}: {} cores, {}; {}; {}; RabbitMQ {}; load {before} before, {after} after",
            self.date, self.cores, self.cpu, self.kernel, self.rustc, self.rabbitmq
        )
    }
}
