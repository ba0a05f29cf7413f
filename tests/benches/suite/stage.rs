//! The surroundings of a measurement: the brokers, a name of its own for each run, and no traces left.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use crate::child::Child;
use crate::comparison::{Entry, Place};
use crate::contenders::nats;
use crate::greeting;
use crate::measure::Sample;
use crate::process;
use crate::task::{Role, Task, Work};
use crate::works::{has_server, service_name};

/// For what is not measured: processes that start, backlogs that are filled.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes the queues that an interrupted run has left behind.
static LEFT: Mutex<Option<(String, Vec<String>)>> = Mutex::new(None);

/// RabbitMQ as the entries see it.
pub struct RabbitMq {
    uri: String,
    /// Its process, if it is one of this machine.
    pub pid: Option<u32>,
    pub version: Option<String>,
}

impl RabbitMq {
    pub fn find() -> Result<Self, String> {
        let uri = std::env::var("AMQP_URL")
            .map_err(|_| "AMQP_URL names the broker to measure on; tests/bench sets it")?;
        let parsed: AMQPUri = uri.parse()?;
        let (host, port) = (parsed.authority.host.as_str(), parsed.authority.port);
        let is_here = ["localhost", "127.0.0.1", "::1"].contains(&host);
        let listener = is_here.then(|| process::listener(port));
        let is_erlang = |pid: &u32| process::name(*pid).is_some_and(|name| name == "beam.smp");
        let pid = listener.flatten().filter(is_erlang);
        let version = greeting::version(host, port);
        Ok(Self { uri, pid, version })
    }

    async fn connect(uri: &str) -> Result<Connection, String> {
        let connect = Connection::connect(uri, ConnectionProperties::default());
        match tokio::time::timeout(PATIENCE, connect).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("RabbitMQ does not answer".into()),
        }
    }
}

/// Measures an entry once.
pub async fn measure(rabbit: &RabbitMq, entry: &Entry, time: Duration) -> Result<Sample, String> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Relaxed);
    let mut task = Task {
        role: Role::Broker,
        work: entry.work,
        contender: entry.contender,
        case: entry.case,
        time,
        address: rabbit.uri.clone(),
        namespace: format!("lepus-bench-{}-{run}", std::process::id()),
        server: None,
        broker: rabbit.pid,
    };
    let mut children = Vec::new();
    match entry.place {
        Place::RabbitMq => remember(&task),
        Place::Embedded => {
            let mut broker = Child::start(&task, entry.program.as_deref())?;
            task.address = broker.line(PATIENCE).await?;
            task.broker = Some(broker.pid);
            children.push(broker);
        }
        Place::Nats => {
            let (broker, address) = nats::start().await?;
            task.address = address;
            task.broker = Some(broker.pid);
            children.push(broker);
        }
        Place::Nowhere => task.broker = None,
    }
    if has_server(entry.work) {
        task.role = Role::Server;
        let mut server = Child::start(&task, entry.program.as_deref())?;
        let address = server.line(PATIENCE).await?;
        if !address.is_empty() {
            task.address = address;
        }
        task.server = Some(server.pid);
        children.push(server);
    }
    task.role = Role::Client;
    let mut client = Child::start(&task, entry.program.as_deref())?;
    let answer = client.line(time + PATIENCE).await;
    children.push(client);
    // The client first: it is the one that would complain.
    for child in children.into_iter().rev() {
        child.stop().await;
    }
    clean_up().await;
    let sample: Sample = serde_json::from_str(&answer?).map_err(|error| error.to_string())?;
    Ok(sample)
}

fn remember(task: &Task) {
    let mut names: Vec<String> = ["echo", "jobs", "jobs.dead"]
        .map(|name| task.name(name))
        .into();
    if let Work::Services(count) = task.work {
        names.extend((0..count).map(|number| task.name(&service_name(number))));
    }
    names.push(task.name("events"));
    *LEFT.lock().expect("no panic") = Some((task.address.clone(), names));
}

/// Deletes what the last run declared. That something is not there is no error to the broker.
pub async fn clean_up() {
    let Some((uri, names)) = LEFT.lock().expect("no panic").take() else {
        return;
    };
    let delete = async {
        let connection = RabbitMq::connect(&uri).await?;
        let channel = connection.create_channel().await?;
        for name in names {
            let queue = QueueDeleteOptions::default();
            channel.queue_delete(name.as_str().into(), queue).await?;
            let exchange = ExchangeDeleteOptions::default();
            channel.exchange_delete(name.into(), exchange).await?;
        }
        connection.close(200, "".into()).await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    match tokio::time::timeout(PATIENCE, delete).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("queues may be left: {error}"),
        Err(_) => eprintln!("queues may be left: the broker does not answer"),
    }
}
