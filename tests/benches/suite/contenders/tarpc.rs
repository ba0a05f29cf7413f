//! tarpc over TCP on the loopback: what RPC costs without a broker.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tarpc::serde_transport::tcp;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context};

use crate::load::Operation;
use crate::task::Task;

#[tarpc::service]
trait Echo {
    async fn echo(payload: Vec<u8>) -> Vec<u8>;
}

#[derive(Clone)]
struct Mirror;

impl Echo for Mirror {
    async fn echo(self, _: context::Context, payload: Vec<u8>) -> Vec<u8> {
        payload
    }
}

pub async fn serve(_: &Task) -> String {
    let mut listener = tcp::listen("127.0.0.1:0", Bincode::default)
        .await
        .expect("a port");
    let address = listener.local_addr().to_string();
    tokio::spawn(async move {
        while let Some(Ok(transport)) = listener.next().await {
            let requests = BaseChannel::with_defaults(transport).execute(Mirror.serve());
            tokio::spawn(requests.for_each(|answer| async move {
                tokio::spawn(answer);
            }));
        }
    });
    address
}

pub async fn client(task: &Task) -> Operation {
    let transport = tcp::connect(&task.address, Bincode::default)
        .await
        .expect("a connection");
    let mut config = client::Config::default();
    config.max_in_flight_requests = config.max_in_flight_requests.max(task.case.flight);
    let (echo, payload) = (EchoClient::new(config, transport).spawn(), task.payload());
    Operation::new(move || {
        let (echo, payload) = (echo.clone(), payload.clone());
        async move {
            let mut context = context::current();
            context.deadline = Instant::now() + Duration::from_secs(60);
            let size = payload.len();
            let reply = echo.echo(context, payload).await.expect("a reply");
            assert_eq!(reply.len(), size);
        }
    })
}
