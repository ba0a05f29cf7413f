//! Peers of different versions of a contract: arguments that a server does not have, and bytes in both forms.

use lepus::rpc::Client;
use lepus::{Code, Codec, Connection, Running, Server};
use lepus_tests::peer::{Caller, short};
use lepus_tests::{Env, conformance};

conformance!(
    a_strict_method_refuses_arguments_that_it_does_not_have,
    other_methods_ignore_them,
    calls_that_share_a_message_are_refused_one_by_one,
    arguments_by_position_are_never_too_many,
    bytes_travel_as_bytes,
    bytes_are_read_in_both_forms,
);

/// The version of the server.
mod old {
    #[lepus::service]
    pub(super) trait Finder {
        #[rpc(strict)]
        async fn find(&self, text: String, limit: Option<u32>) -> String;
        #[rpc(strict)]
        async fn all(&self) -> String;
        async fn guess(&self, text: String) -> String;
        async fn any(&self) -> String;
    }
}

/// The version of the clients: a method more, and optional arguments more of each, in another order.
mod new {
    #[lepus::service]
    pub(super) trait Finder {
        async fn every(&self) -> String;
        async fn find(
            &self,
            text: String,
            limit: Option<u32>,
            page: Option<Vec<u32>>,
            dry_run: Option<bool>,
        ) -> String;
        async fn all(&self, page: Option<u32>) -> String;
        async fn guess(&self, page: Option<Vec<u32>>, text: String) -> String;
        async fn any(&self, page: Option<u32>) -> String;
    }
}

struct Index;

impl old::Finder for Index {
    async fn find(&self, text: String, limit: Option<u32>) -> String {
        format!("{text} {limit:?}")
    }

    async fn all(&self) -> String {
        "all".into()
    }

    async fn guess(&self, text: String) -> String {
        text
    }

    async fn any(&self) -> String {
        "any".into()
    }
}

async fn serve(connection: &Connection) -> Running {
    let server = Server::new(connection).serve(old::FinderServer::new(Index).concurrency(4));
    server.start().await.unwrap()
}

/// Clients of the later version: over the broker and without it, in both codecs.
fn clients(connection: &Connection) -> Vec<new::FinderClient> {
    let mut clients = vec![new::FinderClient::from(Client::local(
        old::FinderServer::new(Index),
    ))];
    for codec in [Codec::MsgPack, Codec::Json] {
        clients.push(new::FinderClient::builder(connection).codec(codec).build());
    }
    clients
}

async fn a_strict_method_refuses_arguments_that_it_does_not_have(env: Env) {
    let connection = env.connect().await;
    let server = serve(&connection).await;
    for client in clients(&connection) {
        // A client sends all arguments, also those that are `None`.
        let error = client
            .find("hare".into(), Some(1), None, Some(true))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument));
        assert!(!error.may_have_executed(), "{error}");
        let text = "`find` does not have the arguments `page`, `dry_run`; it is strict and has \
                    `text`, `limit`";
        assert!(error.to_string().contains(text), "{error}");
        let error = client.all(Some(1)).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument));
        let text = "`all` does not have the argument `page`; it is strict and has none";
        assert!(error.to_string().contains(text), "{error}");
    }
    // Those of its own version are served.
    let client = old::FinderClient::new(&connection);
    assert_eq!(client.find("hare".into(), None).await.unwrap(), "hare None");
    assert_eq!(client.all().await.unwrap(), "all");
    server.stop().await.unwrap();
}

async fn other_methods_ignore_them(env: Env) {
    let connection = env.connect().await;
    let server = serve(&connection).await;
    for client in clients(&connection) {
        let guess = client.guess(Some(vec![1, 2]), "hare".into()).await;
        assert_eq!(guess.unwrap(), "hare");
        assert_eq!(client.any(Some(1)).await.unwrap(), "any");
        let error = client.every().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Unimplemented), "{error}");
    }
    server.stop().await.unwrap();
}

async fn calls_that_share_a_message_are_refused_one_by_one(env: Env) {
    let connection = env.connect().await;
    let server = serve(&connection).await;
    let client = new::FinderClient::builder(&connection).coalesce(16).build();
    let (good, bad) = tokio::join!(
        client.guess(None, "hare".into()).into_future(),
        client.find("hare".into(), None, None, None).into_future(),
    );
    assert_eq!(good.unwrap(), "hare");
    assert_eq!(bad.unwrap_err().code(), Some(Code::InvalidArgument));
    server.stop().await.unwrap();
}

async fn arguments_by_position_are_never_too_many(env: Env) {
    let connection = env.connect().await;
    let server = serve(&connection).await;
    let (caller, queue) = (Caller::open(&env).await, env.name("finder"));
    let msgpack = |method: &str| {
        let properties = caller.json(method);
        properties.with_content_type(short("application/msgpack"))
    };
    for (properties, body) in [
        (caller.json("guess"), &br#"["hare",1]"#[..]),
        (msgpack("guess"), b"\x92\xa4hare\x01"),
        (caller.json("all"), b"[1]"),
        (msgpack("all"), b"\x91\x01"),
    ] {
        let reply = caller.ask(&queue, properties, body).await;
        assert_eq!(reply.failure().0, "invalid_argument");
    }
    // A method without arguments that is not strict takes whatever comes.
    for body in [&b""[..], b"[1]", b"null", b"whatever"] {
        let reply = caller.ask(&queue, caller.json("any"), body).await;
        assert_eq!(reply.body, b"\"any\"");
    }
    for body in [&b""[..], b"{ }", b"[]", b"null", b"whatever"] {
        let reply = caller.ask(&queue, caller.json("all"), body).await;
        assert_eq!(reply.body, b"\"all\"");
    }
    server.stop().await.unwrap();
}

#[lepus::service]
trait Store {
    async fn reversed(&self, bytes: Vec<u8>, also: Option<Vec<u8>>) -> Vec<u8>;
    #[rpc(params = "bare")]
    async fn checked(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Vec<u8>>;
}

/// The same contract with types that serde encodes as lists.
mod lists {
    type Bytes = Vec<u8>;

    #[lepus::service]
    pub(super) trait Store {
        async fn reversed(&self, bytes: Bytes, also: Option<Bytes>) -> Bytes;
        #[rpc(params = "bare")]
        async fn checked(&self, bytes: Bytes) -> Result<Bytes, Bytes>;
    }
}

struct Shelf;

impl Store for Shelf {
    async fn reversed(&self, mut bytes: Vec<u8>, also: Option<Vec<u8>>) -> Vec<u8> {
        bytes.extend(also.unwrap_or_default());
        bytes.reverse();
        bytes
    }

    async fn checked(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        if bytes.is_empty() {
            Err(vec![255])
        } else {
            Ok(bytes)
        }
    }
}

async fn bytes_travel_as_bytes(env: Env) {
    let connection = env.connect().await;
    let (caller, queue) = (Caller::open(&env).await, env.name("store"));
    caller.raw.declare(&queue).await;
    let client = StoreClient::new(&connection);
    let pending = client.reversed(vec![0, 255], Some(vec![200])).send().await;
    let request = caller.raw.next(&queue).await;
    let body = b"\x82\xa5bytes\xc4\x02\x00\xff\xa4also\xc4\x01\xc8";
    assert_eq!(request.delivery.data, body);
    drop(pending.unwrap());
    let pending = client.checked(vec![0, 255]).send().await;
    let request = caller.raw.next(&queue).await;
    assert_eq!(request.delivery.data, b"\xc4\x02\x00\xff");
    drop(pending.unwrap());

    let server = Server::new(&connection).serve(StoreServer::new(Shelf));
    let server = server.start().await.unwrap();
    let msgpack = |method: &str| {
        let properties = caller.json(method);
        properties.with_content_type(short("application/msgpack"))
    };
    let reply = caller.ask(&queue, msgpack("reversed"), body).await;
    assert_eq!(reply.body, b"\xc4\x03\xc8\xff\x00", "{reply:?}");
    let reply = caller
        .ask(&queue, msgpack("checked"), b"\xc4\x01\x07")
        .await;
    assert_eq!(reply.body, b"\xc4\x01\x07", "{reply:?}");
    let reply = caller.ask(&queue, caller.json("checked"), b"[7]").await;
    assert_eq!(reply.body, b"[7]", "{reply:?}");
    server.stop().await.unwrap();
}

async fn bytes_are_read_in_both_forms(env: Env) {
    let connection = env.connect().await;
    let server = Server::new(&connection).serve(StoreServer::new(Shelf));
    let server = server.start().await.unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let backwards: Vec<u8> = all.iter().rev().copied().collect();
    for codec in [Codec::MsgPack, Codec::Json] {
        let bytes = StoreClient::builder(&connection).codec(codec).build();
        let list = lists::StoreClient::builder(&connection)
            .codec(codec)
            .build();
        assert_eq!(bytes.reversed(all.clone(), None).await.unwrap(), backwards);
        assert_eq!(list.reversed(all.clone(), None).await.unwrap(), backwards);
        let also = Some(vec![9]);
        assert_eq!(list.reversed(vec![8], also.clone()).await.unwrap(), [9, 8]);
        assert_eq!(bytes.reversed(vec![8], also).await.unwrap(), [9, 8]);
        assert_eq!(bytes.checked(all.clone()).await.unwrap(), all);
        assert_eq!(list.checked(all.clone()).await.unwrap(), all);
        // The method's own error keeps the form that serde gives it.
        let error = bytes.checked(vec![]).await.unwrap_err();
        assert_eq!(error.service(), Some(&vec![255]));
    }
    let local = StoreClient::local(Shelf);
    assert_eq!(local.reversed(vec![1, 2], None).await.unwrap(), [2, 1]);
    server.stop().await.unwrap();
}
