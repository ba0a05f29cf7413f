//! NATS request and reply: what a broker costs that keeps nothing.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use tokio::process::Command;

use crate::child::Child;
use crate::load::Operation;
use crate::task::Task;

const PROGRAM: &str = "nats-server";

pub fn has_server() -> bool {
    program().is_some()
}

fn program() -> Option<PathBuf> {
    // Debian keeps it where only root looks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join(PROGRAM));
    programs.find(|program| program.is_file())
}

/// A server of our own, and its address.
pub async fn start() -> Result<(Child, String), String> {
    let program = program().ok_or("no nats-server")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())?
        .port();
    let arguments = [
        "-a",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-l",
        "/dev/null",
    ];
    let child = Child::spawn(Command::new(program).args(arguments))?;
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > until {
            return Err("nats-server does not listen".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((child, format!("127.0.0.1:{port}")))
}

pub async fn connect(task: &Task) -> Client {
    ConnectOptions::new()
        .request_timeout(Some(Duration::from_secs(60)))
        .connect(&task.address)
        .await
        .expect("a connection")
}

pub async fn serve(task: &Task) -> String {
    let client = connect(task).await;
    let mut requests = client.subscribe("echo").await.expect("a subscription");
    // Known to the server before a client calls.
    client.flush().await.expect("a connection");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("a reply subject");
            let published = client.publish(reply, request.payload).await;
            published.expect("a reply");
        }
    });
    String::new()
}

pub async fn client(task: &Task) -> Operation {
    let (client, payload) = (connect(task).await, task.payload());
    Operation::new(move || {
        let (client, payload) = (client.clone(), payload.clone());
        async move {
            let size = payload.len();
            let reply = client
                .request("echo", payload.into())
                .await
                .expect("a reply");
            assert_eq!(reply.payload.len(), size);
        }
    })
}
