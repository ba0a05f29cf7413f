//! tonic over TCP on the loopback: what a stream of gRPC costs, which has no broker.
//!
//! The code that a build script makes of an interface definition is written by hand here, and an item is encoded as
//! itself, so that no format is measured.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream;
use tonic::body::Body;
use tonic::client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::http;
use tonic::server;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::service_fn;

use crate::task::Task;

/// The window of a connection, which HTTP/2 lets nobody make smaller. That of a stream may be.
const LEAST_OF_CONNECTION: u32 = 65_535;
/// gRPC's own bytes before each item.
const PREFIX: usize = 5;

#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, body: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(body.copy_to_bytes(body.remaining())))
    }
}

/// Sends the same item for as long as somebody reads. It is the only method, so nothing looks at the path of a request.
pub async fn serve(task: &Task) -> String {
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let incoming = incoming.with_nodelay(Some(true));
    let address = incoming.local_addr().expect("an address");
    let item = Bytes::from(task.payload());
    let service = service_fn(move |request: http::Request<Body>| {
        let items = stream::repeat(Ok(item.clone()));
        let method = service_fn(move |_: Request<Bytes>| {
            let response = Ok::<_, Status>(Response::new(items.clone()));
            std::future::ready(response)
        });
        async move {
            let mut grpc = server::Grpc::new(Raw);
            Ok::<_, Infallible>(grpc.server_streaming(method, request).await)
        }
    });
    tokio::spawn(async move {
        let served = Server::builder().serve_with_incoming(service, incoming);
        served.await.expect("a server");
    });
    format!("http://{address}")
}

/// Reads one stream.
///
/// A reader of gRPC gives no credit for items: its window is that of HTTP/2, in bytes, and here it is as large as that
/// many items. So it bounds what is on its way as the others' windows do, but items may be cut anywhere, and what a
/// server has encoded before it may send it is not bounded by it. Only the windows of this side count, because items go
/// one way. A program that sets none has a window of 2 MiB.
pub async fn read(task: &Task, window: u32) -> Streaming<Bytes> {
    let bytes = window as usize * (task.case.payload + PREFIX);
    let bytes = u32::try_from(bytes).expect("a window of HTTP/2");
    let channel = Endpoint::from_shared(task.address.clone())
        .expect("an address")
        .initial_stream_window_size(bytes)
        .initial_connection_window_size(bytes.max(LEAST_OF_CONNECTION))
        .connect()
        .await
        .expect("a connection");
    let mut grpc = client::Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/lepus.Feed/Items");
    let items = grpc.server_streaming(Request::new(Bytes::new()), path, Raw);
    items.await.expect("a stream").into_inner()
}
