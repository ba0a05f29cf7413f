//! RPC round trips side by side: Lepus, and what one writes first by hand on lapin ("naive").
//!
//! `AMQP_URL=amqp://localhost cargo bench -p lepus-tests --bench rpc [-- seconds rounds]`.
//! Rounds alternate, so that a machine whose speed drifts does so for both; what counts is the
//! ratio. The servers run in processes of their own, so that CPU is told apart.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ConnectionProperties};
use tokio::sync::oneshot;

#[lepus::service(name = "bench-echo", codec = "bytes")]
trait Echo {
    #[rpc(params = "bare", timeout = "60s")]
    async fn echo(&self, payload: Vec<u8>) -> Vec<u8>;
}

struct Mirror;

impl Echo for Mirror {
    async fn echo(&self, payload: Vec<u8>) -> Vec<u8> {
        payload
    }
}

const PAYLOAD: &[u8] = b"sixteen bytes ok";
const NAIVE_QUEUE: &str = "bench-naive";
const CASES: [(usize, u16); 4] = [(1, 1), (64, 1), (64, 64), (256, 256)];

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Naive,
    Lepus,
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let uri = std::env::var("AMQP_URL").expect("AMQP_URL names the broker to measure on");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments.first().map(String::as_str) {
        Some("naive-server") => runtime.block_on(naive_server(&uri, number(&arguments, 1))),
        Some("lepus-server") => runtime.block_on(lepus_server(&uri, number(&arguments, 1))),
        _ => {
            let seconds = arguments
                .first()
                .and_then(|a| a.parse().ok())
                .unwrap_or(3.0);
            let rounds = arguments.get(1).and_then(|a| a.parse().ok()).unwrap_or(3);
            runtime.block_on(compare(&uri, Duration::from_secs_f64(seconds), rounds));
        }
    }
}

fn number(arguments: &[String], at: usize) -> u16 {
    arguments[at].parse().expect("a prefetch")
}

#[derive(Clone, Copy)]
struct Measured {
    calls: f64,
    client_cpu: f64,
    server_cpu: f64,
}

async fn compare(uri: &str, time: Duration, rounds: usize) {
    println!(
        "{:>4} {:>8} | {:>9} {:>9} {:>6} | client CPU us a call, ratio | server CPU, ratio",
        "K", "prefetch", "naive/s", "lepus/s", "ratio"
    );
    for (flight, prefetch) in CASES {
        let mut all = Vec::new();
        for _ in 0..rounds {
            let naive = measure(uri, Side::Naive, flight, prefetch, time).await;
            let lepus = measure(uri, Side::Lepus, flight, prefetch, time).await;
            all.push((naive, lepus));
        }
        let of = |f: &dyn Fn(&(Measured, Measured)) -> f64| median(all.iter().map(f).collect());
        println!(
            "{flight:>4} {prefetch:>8} | {:>9.0} {:>9.0} {:>6.2} | {:>6.1} {:>6.1} {:>5.2} | {:>6.1} {:>6.1} {:>5.2}",
            of(&|(naive, _)| naive.calls),
            of(&|(_, lepus)| lepus.calls),
            of(&|(naive, lepus)| lepus.calls / naive.calls),
            of(&|(naive, _)| naive.client_cpu),
            of(&|(_, lepus)| lepus.client_cpu),
            of(&|(naive, lepus)| lepus.client_cpu / naive.client_cpu),
            of(&|(naive, _)| naive.server_cpu),
            of(&|(_, lepus)| lepus.server_cpu),
            of(&|(naive, lepus)| lepus.server_cpu / naive.server_cpu),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(uri: &str, side: Side, flight: usize, prefetch: u16, time: Duration) -> Measured {
    let call: Caller = match side {
        Side::Naive => naive_client(uri).await,
        Side::Lepus => lepus_client(uri).await,
    };
    let mut server = Server::start(side, prefetch);
    // The first answer says that the server is there.
    call().await;
    load(&call, flight, Duration::from_millis(300)).await;
    let (mine, its) = (cpu("self"), cpu(&server.pid()));
    let started = Instant::now();
    let calls = load(&call, flight, time).await as f64;
    let elapsed = started.elapsed().as_secs_f64();
    let measured = Measured {
        calls: calls / elapsed,
        client_cpu: (cpu("self") - mine) * 1e6 / calls,
        server_cpu: (cpu(&server.pid()) - its) * 1e6 / calls,
    };
    server.stop();
    measured
}

type Caller = Arc<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

async fn load(call: &Caller, flight: usize, time: Duration) -> u64 {
    let until = Instant::now() + time;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..flight {
        let call = Arc::clone(call);
        callers.spawn(async move {
            let mut calls = 0;
            while Instant::now() < until {
                call().await;
                calls += 1;
            }
            calls
        });
    }
    callers.join_all().await.into_iter().sum()
}

/// User and system time of a process, in seconds.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / 100.0
}

struct Server(Child);

impl Server {
    fn start(side: Side, prefetch: u16) -> Self {
        let name = match side {
            Side::Naive => "naive-server",
            Side::Lepus => "lepus-server",
        };
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args([name, &prefetch.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("a server");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn stop(&mut self) {
        self.0.kill().expect("a server to end");
        self.0.wait().expect("an ended server");
    }
}

async fn lepus_server(uri: &str, prefetch: u16) {
    let connection = lepus::Connection::open(uri).await.expect("a connection");
    lepus::Server::new(&connection)
        .serve(EchoServer::new(Mirror))
        .concurrency(prefetch)
        .run(std::future::pending())
        .await
        .expect("a server");
}

async fn lepus_client(uri: &str) -> Caller {
    let connection = lepus::Connection::open(uri).await.expect("a connection");
    let echo = EchoClient::new(&connection);
    Arc::new(move || {
        let echo = echo.clone();
        Box::pin(async move {
            // Until the server has declared its queue, a first call is unroutable.
            loop {
                match echo.echo(PAYLOAD.to_vec()).await {
                    Ok(reply) => break assert_eq!(reply, PAYLOAD),
                    Err(error) if error.is_unroutable() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    })
}

async fn naive_channel(uri: &str) -> lapin::Channel {
    let connection = lapin::Connection::connect(uri, ConnectionProperties::default());
    let connection = connection.await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    // The channel keeps the connection.
    drop(connection);
    channel
}

async fn naive_server(uri: &str, prefetch: u16) {
    let channel = naive_channel(uri).await;
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(NAIVE_QUEUE.into(), options, FieldTable::default())
        .await
        .expect("a queue");
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let consume = channel.basic_consume(
        NAIVE_QUEUE.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut requests = consume.await.expect("a consumer");
    while let Some(request) = requests.next().await {
        let request = request.expect("a request");
        let channel = channel.clone();
        tokio::spawn(async move {
            let reply_to = request.properties.reply_to().clone().expect("reply_to");
            let id = request
                .properties
                .correlation_id()
                .clone()
                .expect("correlation_id");
            let properties = BasicProperties::default().with_correlation_id(id);
            let options = BasicPublishOptions::default();
            let reply =
                channel.basic_publish("".into(), reply_to, options, &request.data, properties);
            reply.await.expect("a reply");
            request
                .ack(BasicAckOptions::default())
                .await
                .expect("an ack");
        });
    }
}

async fn naive_client(uri: &str) -> Caller {
    const DIRECT: &str = "amq.rabbitmq.reply-to";
    let channel = naive_channel(uri).await;
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(NAIVE_QUEUE.into(), options, FieldTable::default())
        .await
        .expect("a queue");
    // What a run that was cut short has left.
    channel
        .queue_purge(NAIVE_QUEUE.into(), QueuePurgeOptions::default())
        .await
        .expect("a purge");
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consume = channel.basic_consume(DIRECT.into(), "".into(), options, FieldTable::default());
    let mut replies = consume.await.expect("a consumer");
    let waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>> = Arc::default();
    let table = Arc::clone(&waiting);
    tokio::spawn(async move {
        while let Some(Ok(reply)) = replies.next().await {
            let id = reply
                .properties
                .correlation_id()
                .as_ref()
                .expect("an id")
                .to_string();
            if let Some(waiter) = table.lock().expect("no panic").remove(&id) {
                let _ = waiter.send(reply.data);
            }
        }
    });
    Arc::new(move || {
        let (channel, waiting) = (channel.clone(), Arc::clone(&waiting));
        Box::pin(async move {
            let id = uuid::Uuid::new_v4().to_string();
            let (sender, reply) = oneshot::channel();
            waiting.lock().expect("no panic").insert(id.clone(), sender);
            let properties = BasicProperties::default()
                .with_correlation_id(id.into())
                .with_reply_to(DIRECT.into());
            let options = BasicPublishOptions::default();
            channel
                .basic_publish("".into(), NAIVE_QUEUE.into(), options, PAYLOAD, properties)
                .await
                .expect("a request");
            assert_eq!(reply.await.expect("a reply"), PAYLOAD);
        })
    })
}
