//! Generated code in hostile surroundings: no prelude, shadowed names, a renamed crate, lints.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(
    rust_2018_idioms,
    unused,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

/// Without a prelude, nothing but absolute paths resolves.
#[no_implicit_prelude]
mod no_prelude {
    #[::lepus::service]
    pub(super) trait Bare {
        async fn add(&self, a: u64, b: u64) -> u64;
        async fn check(&self, n: u64) -> ::core::result::Result<u64, ::std::string::String>;
        #[rpc(params = "bare")]
        async fn echo(&self, line: ::std::string::String) -> ::std::string::String;
        async fn preset(&self, n: u64) -> u64 {
            n
        }
        async fn take(&self, items: ::lepus::Incoming<u64>) -> u64;
    }

    #[::lepus::tasks(worker)]
    pub(super) trait BareTasks {
        async fn work(&self, n: u64);
        #[task(params = "bare")]
        async fn bare(&self, n: u64);
    }

    pub(super) struct It;

    impl Bare for It {
        async fn add(&self, a: u64, b: u64) -> u64 {
            a + b
        }
        async fn check(&self, n: u64) -> ::core::result::Result<u64, ::std::string::String> {
            ::core::result::Result::Ok(n)
        }
        async fn echo(&self, line: ::std::string::String) -> ::std::string::String {
            line
        }
        async fn take(&self, mut items: ::lepus::Incoming<u64>) -> u64 {
            while items.next().await.is_some() {}
            items.items()
        }
    }

    impl BareTasks for It {
        async fn work(&self, _: u64) {}
        async fn bare(&self, _: u64) {}
    }
}

mod no_prelude_runs {
    use super::no_prelude::{BareClient, BareTasksWorker, It};

    #[tokio::test]
    async fn it_works() {
        let client = BareClient::local(It);
        assert_eq!(client.add(1, 2).await.unwrap(), 3);
        assert_eq!(client.check(1).await.unwrap(), 1);
        assert_eq!(client.echo("x".to_owned()).await.unwrap(), "x");
        assert_eq!(client.preset(4).await.unwrap(), 4);
        let items = futures_util::stream::iter([1, 2, 3]);
        assert_eq!(client.take(items).await.unwrap(), 3);
        assert_eq!(BareTasksWorker::<It>::DESCRIPTOR.name(), "bare-tasks");
        assert_eq!(
            format!("{:?}", BareTasksWorker::new(It)),
            "BareTasksWorker { .. }"
        );
    }
}

/// The user's own types under the prelude's names, and under those that generated code uses.
mod shadows {
    use serde::{Deserialize, Serialize};

    macro_rules! units {
        ($($name:ident)*) => {
            $(#[derive(Debug, PartialEq, Serialize, Deserialize)] struct $name;)*
        };
    }
    units!(Option Box String Vec Ok Err Some None Send Sync Future Arc Clone);
    units!(Arguments Request Reply Client Call Service Connection MethodDescriptor S T E A);

    #[lepus::service]
    trait Shadows {
        async fn prelude(&self, a: Option, b: Box, c: String, d: Vec) -> Some;
        async fn markers(&self, a: Send, b: Sync, c: Future, d: Arc, e: Clone) -> None;
        async fn ours(&self, a: Arguments, b: Request, c: Reply, d: Client) -> Call;
        async fn more(&self, a: Service, b: Connection, c: MethodDescriptor) -> Ok;
        async fn letters(&self, a: S, b: T, c: E) -> A;
        #[rpc(params = "bare")]
        async fn bare(&self, a: Arguments) -> core::result::Result<Err, S>;
        #[rpc(params = "bare")]
        async fn bare_too(&self, a: S) -> Result<T, E>;
    }

    type Result<T, E> = core::result::Result<T, E>;

    struct It;

    impl Shadows for It {
        async fn prelude(&self, _: Option, _: Box, _: String, _: Vec) -> Some {
            Some
        }
        async fn markers(&self, _: Send, _: Sync, _: Future, _: Arc, _: Clone) -> None {
            None
        }
        async fn ours(&self, _: Arguments, _: Request, _: Reply, _: Client) -> Call {
            Call
        }
        async fn more(&self, _: Service, _: Connection, _: MethodDescriptor) -> Ok {
            Ok
        }
        async fn letters(&self, _: S, _: T, _: E) -> A {
            A
        }
        async fn bare(&self, _: Arguments) -> Result<Err, S> {
            core::result::Result::Ok(Err)
        }
        async fn bare_too(&self, _: S) -> Result<T, E> {
            core::result::Result::Err(E)
        }
    }

    #[tokio::test]
    async fn it_works() {
        let client = ShadowsClient::local(It);
        assert_eq!(
            client.prelude(Option, Box, String, Vec).await.unwrap(),
            Some
        );
        assert_eq!(
            client
                .markers(Send, Sync, Future, Arc, Clone)
                .await
                .unwrap(),
            None
        );
        assert_eq!(
            client
                .ours(Arguments, Request, Reply, Client)
                .await
                .unwrap(),
            Call
        );
        assert_eq!(
            client
                .more(Service, Connection, MethodDescriptor)
                .await
                .unwrap(),
            Ok
        );
        assert_eq!(client.letters(S, T, E).await.unwrap(), A);
        assert_eq!(client.bare(Arguments).await.unwrap(), Err);
        let refused = client.bare_too(S).await;
        assert!(matches!(
            refused,
            core::result::Result::Err(lepus::CallError::Service(E))
        ));
    }
}

/// Arguments called as generated variables are, and methods as methods of the runtime.
mod arguments {
    #[lepus::service]
    trait Names {
        async fn taken(&self, request: u8, service: u8, client: u8, self_: u8) -> u32;
        async fn more(&self, arguments: u8, value: u8, refused: u8, method: u8) -> u32;
        #[rpc(params = "bare")]
        async fn call(&self, request: u8) -> u32;
        async fn descriptor(&self) -> u32;
        async fn fmt(&self, f: u8) -> u32;
        async fn decode(&self, value: u8) -> u32;
        async fn upload(&self, incoming: u8, request: lepus::Incoming<u8>, client: u8) -> u32;
    }

    struct It;

    impl Names for It {
        async fn taken(&self, request: u8, service: u8, client: u8, self_: u8) -> u32 {
            [request, service, client, self_]
                .into_iter()
                .map(u32::from)
                .sum()
        }
        async fn more(&self, arguments: u8, value: u8, refused: u8, method: u8) -> u32 {
            [arguments, value, refused, method]
                .into_iter()
                .map(u32::from)
                .sum()
        }
        async fn call(&self, request: u8) -> u32 {
            request.into()
        }
        async fn descriptor(&self) -> u32 {
            1
        }
        async fn fmt(&self, f: u8) -> u32 {
            f.into()
        }
        async fn decode(&self, value: u8) -> u32 {
            value.into()
        }
        async fn upload(&self, incoming: u8, request: lepus::Incoming<u8>, client: u8) -> u32 {
            drop(request);
            u32::from(incoming) + u32::from(client)
        }
    }

    #[tokio::test]
    async fn it_works() {
        let client = NamesClient::local(It);
        assert_eq!(client.taken(1, 2, 3, 4).await.unwrap(), 10);
        assert_eq!(client.more(1, 2, 3, 5).await.unwrap(), 11);
        assert_eq!(client.call(7).await.unwrap(), 7);
        assert_eq!(client.descriptor().await.unwrap(), 1);
        assert_eq!(client.fmt(2).await.unwrap(), 2);
        assert_eq!(client.decode(3).await.unwrap(), 3);
        let items = futures_util::stream::iter([1]);
        assert_eq!(client.upload(1, items, 3).await.unwrap(), 4);
    }
}

/// Keywords as names: they travel without their `r#`.
mod raw {
    #[lepus::service]
    #[allow(non_camel_case_types)]
    trait r#struct {
        async fn r#type(&self, r#in: u8, r#match: u8) -> u8;
        #[rpc(params = "bare")]
        async fn r#loop(&self, r#fn: u8) -> u8;
    }

    struct It;

    impl r#struct for It {
        async fn r#type(&self, r#in: u8, r#match: u8) -> u8 {
            r#in + r#match
        }
        async fn r#loop(&self, r#fn: u8) -> u8 {
            r#fn
        }
    }

    #[tokio::test]
    async fn it_works() {
        let client = structClient::local(It);
        assert_eq!(client.r#type(1, 2).await.unwrap(), 3);
        assert_eq!(client.r#loop(4).await.unwrap(), 4);
        let service = structClient::DESCRIPTOR;
        assert_eq!(service.name(), "struct");
        let names: Vec<_> = service
            .methods()
            .iter()
            .map(lepus::rpc::MethodDescriptor::name)
            .collect();
        assert_eq!(names, ["type", "loop"]);
        assert_eq!(service.methods()[0].argument_names(), ["in", "match"]);
    }
}

/// The crate under another name, given in every way it can be.
mod renamed {
    use lepus as hare;

    #[hare::service(crate = hare)]
    trait Path {
        async fn it(&self, n: u8) -> u8;
    }

    #[hare::service(crate = "self::hare")]
    trait Text {
        async fn it(&self, n: u8) -> u8;
    }

    #[hare::tasks(crate = crate::hygiene::renamed::hare, worker)]
    trait Jobs {
        async fn it(&self, n: u8);
    }

    /// A macro that brings its own path, name, method and type along.
    macro_rules! contract {
        ($krate:path, $name:literal, $trait:ident, $method:ident, $ty:ty) => {
            #[hare::service(crate = $krate, name = $name)]
            trait $trait {
                async fn $method(&self, n: $ty) -> Result<$ty, $ty>;
                #[rpc(oneway)]
                async fn own(&self, n: u8);
            }
        };
    }
    contract!(self::hare, "by-macro", ByMacro, it, u8);

    struct It;

    impl ByMacro for It {
        async fn it(&self, n: u8) -> Result<u8, u8> {
            Ok(n)
        }
        async fn own(&self, _: u8) {}
    }

    #[tokio::test]
    async fn it_works() {
        assert_eq!(PathClient::DESCRIPTOR.name(), "path");
        assert_eq!(TextClient::DESCRIPTOR.name(), "text");
        assert_eq!(JobsWorker::<It>::DESCRIPTOR.name(), "jobs");
        assert_eq!(ByMacroClient::DESCRIPTOR.name(), "by-macro");
        assert_eq!(ByMacroClient::local(It).it(5).await.unwrap(), 5);
    }
}

/// Methods that are compiled in or out, also in turns.
mod conditional {
    #[lepus::service]
    #[cfg(test)]
    trait Conditional {
        #[cfg(any())]
        async fn out(&self, n: Missing) -> Missing;
        async fn plain(&self) -> u8;
        #[cfg(test)]
        async fn turns(&self, n: u8) -> u8;
        #[cfg(not(test))]
        async fn turns(&self, n: Missing) -> Missing;
        #[cfg_attr(test, doc = "Documented.")]
        #[cfg(test)]
        #[cfg(not(any()))]
        async fn twice(&self, n: u8) -> u8 {
            n * 2
        }
    }

    #[lepus::service]
    #[cfg(any())]
    trait Out {
        async fn out(&self, n: Missing) -> Missing;
    }

    struct It;

    impl Conditional for It {
        async fn plain(&self) -> u8 {
            1
        }
        async fn turns(&self, n: u8) -> u8 {
            n
        }
    }

    #[tokio::test]
    async fn it_works() {
        let client = ConditionalClient::local(It);
        assert_eq!(client.plain().await.unwrap(), 1);
        assert_eq!(client.turns(2).await.unwrap(), 2);
        assert_eq!(client.twice(2).await.unwrap(), 4);
        let ids: Vec<_> = ConditionalClient::DESCRIPTOR
            .methods()
            .iter()
            .map(|it| (it.id(), it.name()))
            .collect();
        assert_eq!(ids, [(1, "plain"), (2, "turns"), (4, "twice")]);
    }
}

/// Public in a library's sense, private, within a function, with supertraits and attributes.
mod surroundings {
    /// Documented, and so is what comes of it.
    #[lepus::service]
    pub(crate) trait Undocumented: core::fmt::Debug + Clone {
        async fn many(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) -> u8;
        async fn cmp(&self, other: u8) -> u8;
    }

    #[lepus::service(client)]
    trait NeverUsed {
        async fn it(&self);
    }

    #[lepus::tasks(worker)]
    trait NeverUsedEither {
        async fn it(&self);
    }

    /// Whatever implements it, its futures can move to another thread.
    fn futures_are_send<S: Undocumented>(service: &S) -> impl Send {
        service.cmp(1)
    }

    #[derive(Clone, Debug)]
    struct It;

    impl Undocumented for It {
        async fn many(&self, a: u8, _: u8, _: u8, _: u8, _: u8, f: u8) -> u8 {
            a + f
        }
        async fn cmp(&self, other: u8) -> u8 {
            other
        }
    }

    #[tokio::test]
    async fn it_works() {
        #[lepus::service]
        trait Inner {
            #[deprecated = "but still there"]
            async fn it(&self, n: Local) -> Local;
        }

        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Local(u8);

        impl Inner for It {
            async fn it(&self, n: Local) -> Local {
                n
            }
        }

        #[allow(deprecated)]
        let call = InnerClient::local(It).it(Local(1));
        assert_eq!(call.await.unwrap(), Local(1));
        assert_eq!(
            UndocumentedClient::local(It)
                .many(1, 2, 3, 4, 5, 6)
                .await
                .unwrap(),
            7
        );
        let _ = futures_are_send(&It);
        assert_eq!(UndocumentedClient::local(It).cmp(3).await.unwrap(), 3);
    }
}

/// The codecs without a map, and methods that take nothing under each.
mod codecs {
    #[lepus::service(codec = "text")]
    trait Text {
        #[rpc(params = "bare")]
        async fn double(&self, n: u64) -> u64;
        async fn nothing(&self);
    }

    #[lepus::service(codec = "bytes")]
    trait Bytes {
        #[rpc(params = "bare")]
        async fn reverse(&self, bytes: Vec<u8>) -> Vec<u8>;
        async fn nothing(&self);
    }

    #[lepus::service(codec = "json")]
    trait Json {
        async fn nothing(&self);
    }

    #[lepus::service]
    trait MsgPack {
        async fn nothing(&self) -> Option<u64>;
    }

    struct It;

    impl Text for It {
        async fn double(&self, n: u64) -> u64 {
            n * 2
        }
        async fn nothing(&self) {}
    }

    impl Bytes for It {
        async fn reverse(&self, bytes: Vec<u8>) -> Vec<u8> {
            bytes.into_iter().rev().collect()
        }
        async fn nothing(&self) {}
    }

    impl Json for It {
        async fn nothing(&self) {}
    }

    impl MsgPack for It {
        async fn nothing(&self) -> Option<u64> {
            None
        }
    }

    #[tokio::test]
    async fn it_works() {
        assert_eq!(TextClient::local(It).double(21).await.unwrap(), 42);
        TextClient::local(It).nothing().await.unwrap();
        assert_eq!(
            BytesClient::local(It).reverse(vec![1, 2]).await.unwrap(),
            [2, 1]
        );
        BytesClient::local(It).nothing().await.unwrap();
        JsonClient::local(It).nothing().await.unwrap();
        assert_eq!(MsgPackClient::local(It).nothing().await.unwrap(), None);
    }
}

/// Statements that a default body may have.
mod bodies {
    #[lepus::service]
    trait Bodies {
        async fn base(&self, n: u64) -> Result<u64, String>;

        async fn question_mark(&self, n: u64) -> Result<u64, String> {
            let n = self.base(n).await?;
            if n > 100 {
                return Err("too large".to_owned());
            }
            Ok(n * 2)
        }

        async fn shadowing(&self, n: u64, _unused: String) -> u64 {
            #![expect(
                clippy::let_and_return,
                reason = "an inner attribute stays where it was"
            )]
            let n = n + 1;
            n
        }

        async fn nothing(&self, _n: u64) {}
    }

    struct It;

    impl Bodies for It {
        async fn base(&self, n: u64) -> Result<u64, String> {
            n.checked_add(1).ok_or_else(|| "overflow".to_owned())
        }
    }

    #[tokio::test]
    async fn it_works() {
        let client = BodiesClient::local(It);
        assert_eq!(client.question_mark(1).await.unwrap(), 4);
        assert!(client.question_mark(200).await.is_err());
        assert!(client.question_mark(u64::MAX).await.is_err());
        assert_eq!(client.shadowing(1, String::new()).await.unwrap(), 2);
        client.nothing(1).await.unwrap();
    }
}
