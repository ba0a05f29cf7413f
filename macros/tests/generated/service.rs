//! Tests of the code that `#[service]` generates.

use crate::stub::{
    CallError, Client, Codec, Connection, Layer, QueueOptions, Reply, Request, Service,
    ServiceOptions, run,
};
use serde::{Deserialize, Serialize};
use std::cell::Cell;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivideByZero;

/// Arithmetic.
///
/// Of whole numbers.
#[lepus_macros::service(crate = crate::stub, version = "1.0.0", queue = "sums", codec = "json")]
pub trait PocketCalculator {
    /// The n-th Fibonacci number.
    #[rpc(default, params = "bare")]
    async fn fib(&self, n: u64) -> u64;

    #[rpc(name = "div", timeout = "2s", idempotent, queue = "slow")]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;

    #[rpc(oneway)]
    #[rpc(at_most_once)]
    async fn note(&self, line: String);

    #[cfg(any())]
    async fn never(&self, n: Missing) -> Missing;

    async fn r#type(&self, r#in: u8, request: u8, service: u8, client: u8, arguments: u8) -> u32;

    async fn twice(&self, n: u64) -> Result<u64, DivideByZero> {
        if n == 0 {
            return Err(DivideByZero);
        }
        self.divide(1, 1).await?;
        Ok(2 * n)
    }

    async fn todo(&self, _unused: u64) -> u64 {
        todo!()
    }
}

struct Pocket;

impl PocketCalculator for Pocket {
    async fn fib(&self, n: u64) -> u64 {
        (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
    }
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend.checked_div(divisor).ok_or(DivideByZero)
    }
    async fn note(&self, _line: String) {}
    async fn r#type(&self, r#in: u8, request: u8, service: u8, client: u8, arguments: u8) -> u32 {
        [r#in, request, service, client, arguments]
            .iter()
            .map(|&n| u32::from(n))
            .sum()
    }
}

#[test]
fn a_call_reaches_its_method_and_returns() {
    let client = PocketCalculatorClient::local(Pocket);
    assert_eq!(run(client.fib(30)), Ok(832_040));
    assert_eq!(run(client.divide(6, 3)), Ok(2));
    assert_eq!(
        run(client.divide(6, 0)),
        Err(CallError::Service(DivideByZero))
    );
    assert_eq!(run(client.note("x".to_owned())), Ok(()));
    assert_eq!(run(client.r#type(1, 2, 3, 4, 5)), Ok(15));
    assert_eq!(run(client.twice(4)), Ok(8));
    assert_eq!(run(client.twice(0)), Err(CallError::Service(DivideByZero)));
}

#[test]
fn arguments_go_by_name_and_bare_ones_by_themselves() {
    let connection = Connection::default();
    let client = PocketCalculatorClient::new(&connection);
    assert_eq!(run(client.fib(30)), Err(CallError::Rpc(None)));
    assert_eq!(run(client.divide(6, 3)), Err(CallError::Rpc(None)));
    assert_eq!(run(client.r#type(1, 2, 3, 4, 5)), Err(CallError::Rpc(None)));
    let sent = connection.sent.lock().unwrap();
    let sent: Vec<_> = sent
        .iter()
        .map(|(name, body)| (*name, body.as_str()))
        .collect();
    assert_eq!(
        sent,
        [
            ("fib", "30"),
            ("div", r#"{"dividend":6,"divisor":3}"#),
            (
                "type",
                r#"{"in":1,"request":2,"service":3,"client":4,"arguments":5}"#
            ),
        ]
    );
}

#[test]
fn what_cannot_be_dispatched_is_answered() {
    let server = PocketCalculatorServer::new(Pocket);
    let call = |method, body: &str| {
        run(server.call(Request {
            method,
            body: body.to_owned(),
        }))
    };
    assert_eq!(call(0, "7"), Reply::Value("13".to_owned()));
    assert_eq!(call(0, "no number"), Reply::Undecodable);
    assert_eq!(call(1, r#"{"dividend":6}"#), Reply::Undecodable);
    assert_eq!(
        call(1, r#"{"dividend":6,"divisor":3,"more":0}"#),
        Reply::Value("2".to_owned())
    );
    assert_eq!(call(1, "[6,3]"), Reply::Value("2".to_owned()));
    assert_eq!(call(3, "{}"), Reply::Unimplemented, "compiled out");
    assert_eq!(call(99, "{}"), Reply::Unimplemented);
}

#[test]
fn the_descriptor_says_it_all() {
    let service = PocketCalculatorClient::DESCRIPTOR;
    assert_eq!(service.name, "pocket-calculator");
    assert_eq!(service.version, Some("1.0.0"));
    assert_eq!(service.queue, Some("sums"));
    assert_eq!(service.codec, Codec::Json);
    assert_eq!(service.doc, "Arithmetic.\n\nOf whole numbers.");
    assert!(!service.transient && !service.quorum);

    let ids: Vec<_> = service.methods.iter().map(|it| (it.id, it.name)).collect();
    let expected = [
        (0, "fib"),
        (1, "div"),
        (2, "note"),
        (4, "type"),
        (5, "twice"),
        (6, "todo"),
    ];
    assert_eq!(ids, expected, "a compiled-out method leaves a gap");

    let method = |name| service.methods.iter().find(|it| it.name == name).unwrap();
    let fib = method("fib");
    assert_eq!(fib.doc, "The n-th Fibonacci number.");
    assert_eq!(fib.full_name, format!("{}/{}", service.name, fib.name));
    assert!(fib.default && fib.bare && !fib.oneway && !fib.idempotent && !fib.at_most_once);
    assert_eq!(fib.arguments, ["n"]);
    let divide = method("div");
    assert!(divide.idempotent && !divide.default && !divide.bare);
    assert_eq!(divide.timeout_millis, Some(2_000));
    assert_eq!(divide.queue, Some("slow"));
    assert_eq!(divide.arguments, ["dividend", "divisor"]);
    let note = method("note");
    assert!(note.oneway && note.at_most_once);
    assert_eq!(
        method("type").arguments,
        ["in", "request", "service", "client", "arguments"]
    );

    let server = PocketCalculatorServer::new(Pocket);
    assert_eq!(server.descriptor().methods, service.methods);
    assert_eq!(
        PocketCalculatorServer::<Pocket>::DESCRIPTOR.name,
        service.name
    );
}

#[test]
fn both_halves_clone_and_show_themselves() {
    struct Plain;
    impl PocketCalculator for Plain {
        async fn fib(&self, n: u64) -> u64 {
            n
        }
        async fn divide(&self, _: i64, _: i64) -> Result<i64, DivideByZero> {
            Err(DivideByZero)
        }
        async fn note(&self, _: String) {}
        async fn r#type(&self, _: u8, _: u8, _: u8, _: u8, _: u8) -> u32 {
            0
        }
    }
    let server = PocketCalculatorServer::from_arc(std::sync::Arc::new(Plain)).clone();
    assert_eq!(format!("{server:?}"), "PocketCalculatorServer { .. }");
    let client = PocketCalculatorClient::from(Client::local(server)).clone();
    assert_eq!(
        format!("{client:?}"),
        "PocketCalculatorClient { client: Client { .. } }"
    );
    assert_eq!(run(client.fib(5)), Ok(5));
}

#[test]
fn a_client_is_built_with_options() {
    let connection = Connection::default();
    let client = PocketCalculatorClient::builder(&connection).build();
    assert!(run(client.note("x".to_owned())).is_err());
    assert_eq!(connection.sent.lock().unwrap().len(), 1);
}

#[test]
fn a_server_holds_the_options_of_its_service() {
    let server = PocketCalculatorServer::new(Pocket);
    assert_eq!(server.options(), ServiceOptions::new());
    let server = server
        .concurrency(4)
        .queue_options(QueueOptions("lazy"))
        .passive();
    let expected = ServiceOptions {
        concurrency: 4,
        queue: QueueOptions("lazy"),
        passive: true,
    };
    assert_eq!(server.options(), expected);
    assert_eq!(server.clone().options(), expected);
}

/// A layer that leaves services as they are, and counts them.
struct Counting<'a>(&'a Cell<u32>);

impl<S> Layer<S> for Counting<'_> {
    type Service = S;

    fn layer(&self, inner: S) -> S {
        self.0.set(self.0.get() + 1);
        inner
    }
}

#[test]
fn a_layer_is_put_around_the_server() {
    let count = Cell::new(0);
    let server = PocketCalculatorServer::new(Pocket).concurrency(4);
    let layered = server.layer(Counting(&count)).layer(Counting(&count));
    assert_eq!(count.get(), 2);
    assert_eq!(layered.service().options().concurrency, 4);
}

mod statuses {
    use crate::stub::{Call, CallError, Never, Reply, Status, run};
    type Alias = Status;

    #[lepus_macros::service(crate = crate::stub)]
    pub trait Guarded {
        async fn open(&self, key: u8) -> Result<u8, Status>;
        async fn close(&self) -> Result<(), Alias>;
    }

    struct Door;

    impl Guarded for Door {
        async fn open(&self, key: u8) -> Result<u8, Status> {
            (key == 7).then_some(key).ok_or(Status("wrong key"))
        }
        async fn close(&self) -> Result<(), Alias> {
            Err(Status("jammed"))
        }
    }

    #[test]
    fn a_status_is_no_error_of_the_method() {
        let client = GuardedClient::local(Door);
        let call: Call<u8, Never> = client.open(7);
        assert_eq!(run(call), Ok(7));
        let failed = |text| Some(Reply::Status(text));
        assert_eq!(
            run(client.open(1)),
            Err(CallError::Rpc(failed("wrong key")))
        );
        let call: Call<()> = client.close();
        assert_eq!(run(call), Err(CallError::Rpc(failed("jammed"))));
    }
}

mod aliases {
    use super::DivideByZero;
    use crate::stub::{Call, CallError, Never, Reply, Status, run};
    use serde::{Deserialize, Serialize};

    pub type ShopResult<T> = Result<T, DivideByZero>;
    pub type StatusResult = Result<(), Status>;

    pub mod shop {
        pub type Result<T> = std::result::Result<T, super::DivideByZero>;
    }

    /// No `Result`, but for its name.
    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct QueryResult(u8);

    #[lepus_macros::service(crate = crate::stub)]
    pub trait Aliased {
        async fn suffix(&self, n: u8) -> ShopResult<u8>;
        async fn one_argument(&self) -> shop::Result<u8>;
        async fn status(&self) -> StatusResult;
        async fn value(&self) -> QueryResult;
        async fn nested(&self) -> Option<ShopResult<u8>>;
    }

    struct Shop;

    impl Aliased for Shop {
        async fn suffix(&self, n: u8) -> ShopResult<u8> {
            84_u8.checked_div(n).ok_or(DivideByZero)
        }
        async fn one_argument(&self) -> shop::Result<u8> {
            Err(DivideByZero)
        }
        async fn status(&self) -> StatusResult {
            Err(Status("closed"))
        }
        async fn value(&self) -> QueryResult {
            QueryResult(7)
        }
        async fn nested(&self) -> Option<ShopResult<u8>> {
            Some(Err(DivideByZero))
        }
    }

    #[test]
    fn an_alias_is_what_it_stands_for() {
        let client = AliasedClient::local(Shop);
        let call: Call<u8, DivideByZero> = client.suffix(2);
        assert_eq!(run(call), Ok(42));
        assert_eq!(run(client.suffix(0)), Err(CallError::Service(DivideByZero)));
        let call: Call<u8, DivideByZero> = client.one_argument();
        assert_eq!(run(call), Err(CallError::Service(DivideByZero)));
        let call: Call<(), Never> = client.status();
        let closed = Some(Reply::Status("closed"));
        assert_eq!(run(call), Err(CallError::Rpc(closed)));
        let call: Call<QueryResult> = client.value();
        assert_eq!(run(call), Ok(QueryResult(7)));
        assert_eq!(run(client.nested()), Ok(Some(Err(DivideByZero))));
    }
}

mod objects {
    use crate::stub::{CallError, Client, Service, run};
    use std::sync::Arc;

    #[lepus_macros::service(crate = crate::stub, dyn)]
    pub trait Shape {
        async fn area(&self, scale: u32) -> u32;
        async fn name(&self) -> Result<String, u8> {
            Err(self.area(1).await as u8)
        }
    }

    struct Square;
    struct Named;

    #[async_trait::async_trait]
    impl Shape for Square {
        async fn area(&self, scale: u32) -> u32 {
            4 * scale
        }
    }

    #[async_trait::async_trait]
    impl Shape for Named {
        async fn area(&self, _: u32) -> u32 {
            0
        }
        async fn name(&self) -> Result<String, u8> {
            Ok("named".to_owned())
        }
    }

    #[test]
    fn a_trait_object_is_served() {
        let shapes: [Arc<dyn Shape>; 2] = [Arc::new(Square), Arc::new(Named)];
        let [square, named] = shapes.map(|shape| {
            let server = ShapeServer::from_arc(shape).concurrency(3);
            assert_eq!(server.clone().options().concurrency, 3);
            ShapeClient::from(Client::local(server))
        });
        assert_eq!(run(square.area(2)), Ok(8));
        assert_eq!(run(square.name()), Err(CallError::Service(4)));
        assert_eq!(run(named.name()), Ok("named".to_owned()));
        // By its type as well.
        assert_eq!(run(ShapeClient::local(Square).area(1)), Ok(4));
    }
}

mod halves {
    #[lepus_macros::service(crate = "crate::stub", client, name = "one", durable = false)]
    pub trait OnlyClient {
        async fn ping(&self);
    }

    #[lepus_macros::service(crate = crate::stub, server, name = "two", quorum)]
    pub trait OnlyServer {
        async fn ping(&self);
    }

    // Would clash if the halves that were not asked for were generated.
    #[expect(dead_code, reason = "only its name matters")]
    pub struct OnlyClientServer;
    #[expect(dead_code, reason = "only its name matters")]
    pub struct OnlyServerClient;

    #[test]
    fn each_half_stands_alone() {
        assert_eq!(OnlyClientClient::DESCRIPTOR.name, "one");
        assert!(OnlyClientClient::DESCRIPTOR.transient);
        assert_eq!(OnlyServerServer::<()>::DESCRIPTOR.name, "two");
        assert!(OnlyServerServer::<()>::DESCRIPTOR.quorum);
    }
}

mod codecs {
    #[lepus_macros::service(crate = crate::stub, codec = "text")]
    pub trait Plain {
        #[rpc(params = "bare")]
        async fn echo(&self, line: String) -> String;
        async fn nothing(&self);
    }

    #[lepus_macros::service(crate = crate::stub, codec = "bytes")]
    pub trait Raw {
        #[rpc(params = "bare")]
        async fn echo(&self, bytes: Vec<u8>) -> Vec<u8>;
    }

    #[lepus_macros::service(crate = crate::stub, codec = "msgpack", durable = true)]
    pub trait Packed {
        #[rpc(params = "named")]
        async fn echo(&self, n: u8) -> u8;
    }

    #[test]
    fn nothing_is_no_map_where_the_codec_has_none() {
        let connection = crate::stub::Connection::default();
        assert!(crate::stub::run(PlainClient::new(&connection).nothing()).is_err());
        assert_eq!(
            *connection.sent.lock().unwrap(),
            [("nothing", "null".to_owned())]
        );
    }

    #[test]
    fn each_codec_has_its_name() {
        use crate::stub::Codec;
        assert_eq!(PlainClient::DESCRIPTOR.codec, Codec::Text);
        assert_eq!(RawClient::DESCRIPTOR.codec, Codec::Bytes);
        assert_eq!(PackedClient::DESCRIPTOR.codec, Codec::MsgPack);
        assert!(!PackedClient::DESCRIPTOR.transient);
        assert!(
            PackedClient::DESCRIPTOR
                .methods
                .iter()
                .all(|method| !method.bare)
        );
    }
}

mod octets {
    use crate::stub::{Call, Connection, Reply, Request, Service, run};
    use serde::Deserialize;

    type Bytes = Vec<u8>;

    #[lepus_macros::service(crate = crate::stub)]
    pub trait Store {
        async fn put(&self, id: u8, bytes: Vec<u8>, mark: Option<std::vec::Vec<u8>>, more: u8);
        #[rpc(params = "bare")]
        async fn get(&self, id: Vec<u8>) -> Vec<u8>;
        async fn find(&self) -> Result<Option<Vec<u8>>, u8>;
        async fn others(&self, lists: Vec<Vec<u8>>, bytes: Bytes) -> Bytes;
    }

    struct Shelf;

    impl Store for Shelf {
        async fn put(&self, id: u8, bytes: Vec<u8>, mark: Option<Vec<u8>>, more: u8) {
            assert_eq!((id, more), (1, 2));
            assert_eq!((bytes, mark), (vec![0, 255], None));
        }
        async fn get(&self, id: Vec<u8>) -> Vec<u8> {
            id
        }
        async fn find(&self) -> Result<Option<Vec<u8>>, u8> {
            Ok(Some(vec![7]))
        }
        async fn others(&self, lists: Vec<Vec<u8>>, bytes: Bytes) -> Bytes {
            assert_eq!(lists, [[1]]);
            bytes
        }
    }

    #[test]
    fn bytes_are_sent_as_bytes_where_they_are_written_so() {
        let connection = Connection::default();
        let client = StoreClient::new(&connection);
        let _: [Call<()>; 2] = [
            client.put(1, vec![0, 255], None, 2),
            client.put(1, vec![], Some(vec![1]), 2),
        ];
        let _: [Call<Vec<u8>>; 2] = [client.get(vec![16]), client.others(vec![vec![1]], vec![2])];
        let sent = connection.sent.lock().unwrap();
        let bodies: Vec<_> = sent.iter().map(|(_, body)| body.as_str()).collect();
        assert_eq!(
            bodies,
            [
                r#"{"id":1,"bytes":"00ff","mark":null,"more":2}"#,
                r#"{"id":1,"bytes":"","mark":"01","more":2}"#,
                "\"10\"",
                r#"{"lists":[[1]],"bytes":[2]}"#,
            ]
        );
    }

    #[test]
    fn bytes_are_received_and_returned_as_bytes() {
        let server = StoreServer::new(Shelf);
        let call = |method, body: &str| {
            let body = body.to_owned();
            run(server.call(Request { method, body }))
        };
        let value = |text: &str| Reply::Value(text.to_owned());
        let put = r#"{"id":1,"bytes":"00ff","mark":null,"more":2}"#;
        assert_eq!(call(0, put), value("null"));
        assert_eq!(
            call(0, r#"{"id":1,"bytes":"00ff","more":2}"#),
            value("null")
        );
        assert_eq!(
            call(0, r#"{"id":1,"mark":null,"more":2}"#),
            Reply::Undecodable
        );
        assert_eq!(call(1, "\"10\""), value("\"10\""));
        assert_eq!(call(2, ""), value("\"07\""));
        assert_eq!(call(3, r#"{"lists":[[1]],"bytes":[2]}"#), value("[2]"));
    }

    #[lepus_macros::tasks(crate = crate::stub)]
    pub trait Prints {
        async fn print(&self, page: Vec<u8>, copies: Option<u8>);
        #[task(params = "bare")]
        async fn scan(&self, page: Option<Vec<u8>>);
    }

    #[test]
    fn dead_letters_have_bytes_too() {
        let read = |body| serde_json::from_str::<PrintsTask>(body).unwrap();
        match read(r#"{"print":{"page":"0a"}}"#) {
            PrintsTask::Print { page, copies: None } => assert_eq!(page, [10]),
            other => panic!("{other:?}"),
        }
        match read(r#"{"scan":"0b"}"#) {
            PrintsTask::Scan(Some(page)) => assert_eq!(page, [11]),
            other => panic!("{other:?}"),
        }
        assert!(PrintsTask::deserialize(serde_json::json!({"print": {}})).is_err());
    }
}

mod strict {
    use crate::stub::{Reply, Request, Service, run};

    #[lepus_macros::service(crate = crate::stub)]
    pub trait Finder {
        #[rpc(strict)]
        async fn find(&self, text: String) -> u8;
        #[rpc(strict)]
        async fn all(&self) -> u8;
        async fn some(&self) -> u8;
    }

    struct Index;

    impl Finder for Index {
        async fn find(&self, _: String) -> u8 {
            1
        }
        async fn all(&self) -> u8 {
            2
        }
        async fn some(&self) -> u8 {
            3
        }
    }

    #[test]
    fn the_descriptor_tells_and_the_runtime_is_asked() {
        let strict = FinderClient::DESCRIPTOR.methods.iter().map(|it| it.strict);
        assert_eq!(strict.collect::<Vec<_>>(), [true, true, false]);
        let server = FinderServer::new(Index);
        let call = |method, body: &str| {
            let body = body.to_owned();
            run(server.call(Request { method, body }))
        };
        assert_eq!(call(1, "{}"), Reply::Value("2".to_owned()));
        assert_eq!(call(1, "too many"), Reply::Undecodable);
        assert_eq!(call(2, "too many"), Reply::Undecodable);
    }
}
