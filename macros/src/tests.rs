//! Tests of every mistake and its message, over the whole pipeline. The UI tests check the spans.

use crate::expand::compile;
use crate::names::Kind;
use proc_macro2::{Ident, TokenStream};
use syn::visit::{self, Visit};
use syn::{
    Attribute, File, ImplItemConst, ImplItemFn, Item, ItemEnum, ItemStruct, Macro, Visibility,
};

/// The messages of a compilation, and whether it generated the trait and the two halves.
struct Compiled {
    mistakes: Vec<String>,
    items: File,
}

impl Compiled {
    fn of(kind: Kind, arguments: &str, item: &str) -> Self {
        struct Mistakes(Vec<String>);
        impl Visit<'_> for Mistakes {
            fn visit_macro(&mut self, it: &Macro) {
                if it
                    .path
                    .segments
                    .last()
                    .is_some_and(|last| last.ident == "compile_error")
                {
                    self.0.push(it.parse_body::<syn::LitStr>().unwrap().value());
                }
                visit::visit_macro(self, it);
            }
        }
        let tokens = |text: &str| text.parse::<TokenStream>().unwrap();
        let output = compile(kind, tokens(arguments), tokens(item));
        let items: File = syn::parse2(output).expect("the output is Rust");
        let mut mistakes = Mistakes(Vec::new());
        mistakes.visit_file(&items);
        Self {
            mistakes: mistakes.0,
            items,
        }
    }

    fn has_trait(&self) -> bool {
        self.items
            .items
            .iter()
            .any(|item| matches!(item, Item::Trait(_)))
    }

    fn types(&self) -> Vec<String> {
        let types = self.items.items.iter().filter_map(|item| match item {
            Item::Struct(item) => Some(item.ident.to_string()),
            Item::Enum(item) => Some(item.ident.to_string()),
            _ => None,
        });
        types.collect()
    }
}

/// The only mistake in the arguments of a service.
#[track_caller]
fn arguments(arguments: &str) -> String {
    one(Kind::Service, arguments, "trait T { async fn f(&self); }")
}

/// The only mistake in a method of a service.
#[track_caller]
fn method(method: &str) -> String {
    one(Kind::Service, "", &format!("trait T {{ {method} }}"))
}

/// The only mistake in a task.
#[track_caller]
fn task(method: &str) -> String {
    one(Kind::Tasks, "", &format!("trait T {{ {method} }}"))
}

#[track_caller]
fn one(kind: Kind, arguments: &str, item: &str) -> String {
    let compiled = Compiled::of(kind, arguments, item);
    assert!(compiled.has_trait(), "the trait is lost");
    assert!(compiled.types().is_empty(), "halves of a mistaken contract");
    let mut mistakes = compiled.mistakes;
    let first = mistakes.pop().expect("a mistake");
    assert!(mistakes.is_empty(), "{mistakes:?} beside {first}");
    first
}

#[track_caller]
fn good(kind: Kind, arguments: &str, item: &str) -> Vec<String> {
    let compiled = Compiled::of(kind, arguments, item);
    assert_eq!(compiled.mistakes, Vec::<String>::new());
    assert!(compiled.has_trait());
    compiled.types()
}

#[test]
fn a_correct_contract_has_both_halves() {
    let item = "pub trait Calc { async fn fib(&self, n: u64) -> u64; }";
    assert_eq!(good(Kind::Service, "", item), ["CalcClient", "CalcServer"]);
    assert_eq!(good(Kind::Service, "client", item), ["CalcClient"]);
    assert_eq!(good(Kind::Service, "server", item), ["CalcServer"]);
    assert_eq!(
        good(Kind::Service, "client, server", item),
        ["CalcClient", "CalcServer"]
    );
    let item = "pub trait Jobs { async fn run(&self) -> Result<(), E>; }";
    assert_eq!(
        good(Kind::Tasks, "", item),
        ["JobsProducer", "JobsWorker", "JobsTask"]
    );
    assert_eq!(good(Kind::Tasks, "producer", item), ["JobsProducer"]);
    assert_eq!(
        good(Kind::Tasks, "worker", item),
        ["JobsWorker", "JobsTask"]
    );
}

#[test]
fn everything_public_is_documented() {
    /// Counts the public items, and collects those without documentation.
    #[derive(Default)]
    struct Public {
        documented: usize,
        undocumented: Vec<String>,
    }
    impl Public {
        fn item(&mut self, vis: &Visibility, attributes: &[Attribute], name: &Ident) {
            let documented = attributes
                .iter()
                .any(|attribute| attribute.path().is_ident("doc"));
            match vis {
                Visibility::Inherited => {}
                _ if documented => self.documented += 1,
                _ => self.undocumented.push(name.to_string()),
            }
        }
    }
    impl<'ast> Visit<'ast> for Public {
        fn visit_item_struct(&mut self, it: &'ast ItemStruct) {
            self.item(&it.vis, &it.attrs, &it.ident);
        }
        fn visit_item_enum(&mut self, it: &'ast ItemEnum) {
            self.item(&it.vis, &it.attrs, &it.ident);
            for variant in &it.variants {
                self.item(&it.vis, &variant.attrs, &variant.ident);
            }
        }
        fn visit_impl_item_fn(&mut self, it: &'ast ImplItemFn) {
            self.item(&it.vis, &it.attrs, &it.sig.ident);
        }
        fn visit_impl_item_const(&mut self, it: &'ast ImplItemConst) {
            self.item(&it.vis, &it.attrs, &it.ident);
        }
    }
    for (kind, count) in [(Kind::Service, 15), (Kind::Tasks, 16)] {
        let item = "pub trait T { async fn f(&self); #[doc(hidden)] async fn g(&self, n: u8); }";
        let compiled = Compiled::of(kind, "", item);
        let mut public = Public::default();
        public.visit_file(&compiled.items);
        assert_eq!(public.undocumented, Vec::<String>::new());
        assert_eq!(public.documented, count, "the test sees them all");
    }
}

#[test]
fn unusual_contracts_are_correct() {
    let fine = |method: &str| good(Kind::Service, "", &format!("trait T {{ {method} }}"));
    fine("");
    fine("async fn f(self: &Self);");
    fine("async fn f(&self) -> ();");
    fine("async fn f(&self) -> fmt::Result;");
    fine("async fn f(&self) -> Result<(), ()>;");
    fine("async fn f(&self) -> std::result::Result<u8, E>;");
    fine("async fn f(&self, a: Cow<'static, str>, b: Box<str>, c: Arc<[u8]>, d: [u8; 4]);");
    fine("async fn f(&self) { }");
    fine("#[rpc] async fn f(&self);");
    fine("#[rpc()] async fn f(&self);");
    fine("#[rpc(oneway, idempotent, timeout = \"1s\",)] async fn f(&self) -> ();");
    fine("#[rpc(cancel = false)] async fn f(&self); #[rpc(cancel = true)] async fn g(&self);");
    fine("#[cfg(a)] async fn f(&self); #[cfg(not(a))] async fn f(&self, n: u8);");
    fine("async fn new_one(&self); async fn New(&self);");
    fine("#[cfg_attr(a, doc = \"b\")] async fn f(&self);");
    fine("async fn f(&self, a: u8, rows: Incoming<u8>, b: u8); async fn g(&self, it: Incoming);");
    fine("#[rpc(params = \"bare\")] async fn f(&self, rows: ::lepus::Incoming<u8>, b: u8);");
    fine("fn f(&self, rows: Incoming<u8>) -> impl Stream<Item = u8>;");
    good(
        Kind::Service,
        "codec = \"text\", dyn",
        "trait T { async fn f(&self, rows: Incoming<String>); }",
    );
    good(Kind::Service, "crate = \"::a::b\"", "trait T {}");
    good(Kind::Service, "crate = self::b", "trait T: Clone + {}");
    good(
        Kind::Service,
        "queue = \"q\", name = \"amq.x\"",
        "trait T {}",
    );
}

#[test]
fn several_mistakes_come_in_one_pass() {
    let compiled = Compiled::of(
        Kind::Service,
        "magic, name = 1, version = \"x\"",
        "trait T<X> {
            type Out;
            fn f(&self, s: &str) -> io::Result<&u8>;
            #[rpc(timeout = \"2x\", nonsense)]
            async fn g<Y>(self, (a, b): (u8, u8));
        }",
    );
    assert_eq!(compiled.mistakes.len(), 13, "{:#?}", compiled.mistakes);
    assert!(compiled.has_trait());
}

#[test]
fn it_goes_above_a_trait() {
    for item in ["struct S;", "fn f() {}", "impl S {}"] {
        let compiled = Compiled::of(Kind::Tasks, "", item);
        assert_eq!(compiled.mistakes, ["`#[lepus::tasks]` goes above a trait"]);
        assert_eq!(compiled.items.items.len(), 2, "the item stays");
    }
}

#[test]
fn arguments_of_the_trait() {
    assert_eq!(
        arguments("magic = 1"),
        "unknown argument `magic`, expected one of `name`, `version`, `queue`, `codec`, \
         `durable`, `quorum`, `dyn`, `crate`, `client`, `server`"
    );
    assert!(arguments("timeout = \"1s\"").ends_with("write `#[rpc(timeout)]` above it"));
    assert_eq!(
        arguments("quorum, quorum"),
        "`quorum` is given twice: remove one of them"
    );
    assert_eq!(arguments("name"), "expected a string: write `name = \"…\"`");
    assert_eq!(
        arguments("name = 7"),
        "expected a string: write `name = \"…\"`"
    );
    assert_eq!(
        arguments("name ="),
        "expected a value: write `name = value`"
    );
    assert_eq!(
        arguments("name(\"x\")"),
        "expected `,` or `=`: write `name` or `name = value`"
    );
    assert_eq!(
        arguments("\"x\""),
        "expected an argument: write `key` or `key = value`"
    );
    assert_eq!(
        arguments(", quorum"),
        "expected an argument before this comma"
    );
    assert_eq!(
        arguments("version = 1.0"),
        "expected a string: write `version = \"1.0.0\"`"
    );
    assert!(arguments("version = \"1.0\"").starts_with("`1.0` is not a version"));
    assert_eq!(
        arguments("quorum = true"),
        "`quorum` takes no value: write it alone"
    );
    assert_eq!(
        arguments("durable"),
        "expected `true` or `false`: write `durable = false`"
    );
    assert_eq!(
        arguments("client = true"),
        "`client` takes no value: write it alone"
    );
    assert_eq!(
        arguments("crate = 5"),
        "expected a path: write `crate = ::lepus`"
    );
    assert_eq!(
        arguments("crate = \"a b\""),
        "expected a path: write `crate = \"::lepus\"`"
    );
    assert_eq!(
        arguments("codec = json"),
        "expected a string: write `codec = \"msgpack\"`"
    );
    assert_eq!(
        arguments("codec = \"xml\""),
        "unknown codec `xml`, expected one of `msgpack`, `json`, `text`, `bytes`"
    );
    assert_eq!(
        arguments("quorum, durable = false"),
        "a quorum queue is durable: remove `durable = false` or `quorum`"
    );
    assert!(one(Kind::Tasks, "quorum", "trait T {}").contains("`producer`, `worker`"));
}

#[test]
fn arguments_of_a_method() {
    let rpc = |arguments: &str| method(&format!("#[rpc({arguments})] async fn f(&self);"));
    assert_eq!(
        rpc("magic"),
        "unknown argument `magic`, expected one of `name`, `timeout`, `idempotent`, `oneway`, \
         `at_most_once`, `require_consumer`, `cancel`, `queue`, `default`, `params`, `strict`"
    );
    assert!(rpc("codec = \"json\"").ends_with("write `#[service(codec)]` above it"));
    assert_eq!(
        rpc("oneway, oneway"),
        "`oneway` is given twice: remove one of them"
    );
    assert_eq!(
        rpc("timeout = 2"),
        "expected a duration: write `timeout = \"2s\"`"
    );
    assert!(rpc("timeout = \"2x\"").contains("\"250ms\", \"2s\", \"5m\", \"1h\""));
    assert!(rpc("timeout = \"0s\"").starts_with("a timeout cannot be zero"));
    assert!(rpc("timeout = \"1000000h\"").contains("too long"));
    assert_eq!(
        rpc("params = \"x\""),
        "unknown params `x`, expected one of `bare`, `named`"
    );
    assert_eq!(
        rpc("params"),
        "expected a string: write `params = \"bare\"`"
    );
    assert!(rpc("params = \"bare\"").contains("this method has 0"));
    assert!(
        method("#[rpc(params = \"bare\")] async fn f(&self, a: u8, b: u8);")
            .contains("this method has 2")
    );
    assert_eq!(
        rpc("idempotent, at_most_once"),
        "an idempotent method may run twice: remove `at_most_once` or `idempotent`"
    );
    assert_eq!(
        rpc("strict = true"),
        "`strict` takes no value: write it alone"
    );
    assert_eq!(
        rpc("strict, oneway"),
        "a oneway call has no reply that could refuse an argument: remove `strict` or `oneway`"
    );
    assert_eq!(
        rpc("cancel"),
        "expected `true` or `false`: write `cancel = false`"
    );
    assert_eq!(
        rpc("cancel = false, oneway"),
        "nobody waits for a oneway call, so nobody can give it up: remove `cancel` or `oneway`"
    );
    assert_eq!(
        task("#[task(strict, params = \"bare\")] async fn f(&self, n: u8);"),
        "a bare argument has no others beside it: remove `strict` or `params = \"bare\"`"
    );
    assert_eq!(
        method("#[rpc = \"x\"] async fn f(&self);"),
        "write the arguments in parentheses: `#[rpc(…)]`"
    );
    for output in ["u8", "Result<(), E>"] {
        assert_eq!(
            method(&format!("#[rpc(oneway)] async fn f(&self) -> {output};")),
            "a oneway method returns nothing: remove the type or `oneway`"
        );
    }
    assert_eq!(
        method("#[rpc(default)] async fn f(&self); #[rpc(default)] async fn g(&self);"),
        "`f` is the default method: remove one `default`"
    );
    assert_eq!(
        method("#[task] async fn f(&self);"),
        "`#[task]` belongs to `#[lepus::tasks]`: write `#[rpc]`"
    );
    assert_eq!(
        task("#[rpc(oneway)] async fn f(&self);"),
        "`#[rpc]` belongs to `#[lepus::service]`: write `#[task]`"
    );
    assert!(method("#[cfg_attr(a, rpc(oneway))] async fn f(&self);").contains("`cfg_attr`"));
    for codec in ["text", "bytes"] {
        assert_eq!(
            one(
                Kind::Service,
                &format!("codec = \"{codec}\""),
                "trait T { async fn f(&self, n: u8); async fn g(&self); }"
            ),
            format!(
                "the `{codec}` codec encodes a single value: write `#[rpc(params = \"bare\")]` above `f`"
            )
        );
    }
}

#[test]
fn the_trait() {
    let item = |item: &str| one(Kind::Service, "", item);
    for generics in ["<X>", "<'a>", "<const N: usize>"] {
        assert_eq!(
            item(&format!("trait T{generics} {{}}")),
            "a contract cannot be generic: write the concrete types in its methods"
        );
    }
    assert!(item("unsafe trait T {}").contains("remove `unsafe`"));
    assert!(item("trait T { type Out; }").contains("no associated types"));
    assert!(item("trait T { const N: u8; }").contains("no associated constants"));
    assert!(item("trait T { m!(); }").contains("only methods"));
    assert!(item("#[async_trait] trait T {}").contains("remove `#[async_trait]`"));
    assert!(item("#[async_trait::async_trait] trait T {}").contains("remove `#[async_trait]`"));
    let compiled = Compiled::of(Kind::Service, "dyn", "#[async_trait] trait T {}");
    assert!(compiled.mistakes[0].ends_with("but not above its impls"));
}

#[test]
fn signatures() {
    assert_eq!(
        method("fn f(&self);"),
        "a call is async: write `async fn f`"
    );
    assert!(method("async unsafe fn f(&self);").contains("remove `unsafe`"));
    assert!(method("async extern \"C\" fn f(&self);").contains("remove `extern`"));
    assert!(method("const async fn f(&self);").contains("remove `const`"));
    assert!(method("async fn f(&self, n: u8, ...);").contains("cannot be variadic"));
    for generics in ["<X>", "<'a>", "<const N: usize>"] {
        let method = method(&format!("async fn f{generics}(&self);"));
        assert_eq!(
            method,
            "a method of a contract cannot be generic: write the concrete types"
        );
    }
    assert!(method("async fn f(&self) where u8: Copy;").contains("no `where` clause"));
    assert!(method("async fn f();").contains("takes `&self`: write it first"));
    assert!(method("async fn f(n: u8);").contains("takes `&self`: write it first"));
    assert!(method("async fn f(self);").contains("outlives each request: write `&self`"));
    assert!(method("async fn f(mut self);").contains("write `&self`"));
    assert!(method("async fn f(self: Arc<Self>);").contains("write `&self`"));
    assert!(method("async fn f(&mut self);").contains("behind a lock"));
    assert!(method("async fn f(self: &mut Self);").contains("behind a lock"));
    assert!(method("async fn f(&'static self);").contains("write `&self`"));
    assert!(method("async fn f(&self, (a, b): (u8, u8));").contains("cannot be a pattern"));
    assert!(method("async fn f(&self, mut a: u8) {}").contains("write `a: …`"));
    assert!(method("async fn f(&self, _: u8);").contains("give it one"));
    assert!(method("async fn f(&self, #[a] n: u8);").contains("no attributes"));
}

#[test]
fn streams_that_cannot_be_taken() {
    let argument = |ty: &str| method(&format!("async fn f(&self, rows: {ty});"));
    let options = |rpc: &str| {
        method(&format!(
            "#[rpc({rpc})] async fn f(&self, rows: Incoming<u8>);"
        ))
    };
    let two = method("async fn f(&self, rows: Incoming<u8>, n: u8, more: Incoming<u8>);");
    assert!(two.contains("takes one stream"), "{two}");
    assert!(argument("&Incoming<u8>").contains("write `Incoming<u8>`"));
    assert!(argument("impl Stream<Item = u8>").contains("as `Incoming<u8>`"));
    for nested in [
        "Option<Incoming<u8>>",
        "Vec<(u8, Incoming<u8>)>",
        "Incoming<Incoming<u8>>",
    ] {
        assert!(argument(nested).contains("write `items: Incoming<…>`"));
    }
    let output = method("async fn f(&self) -> Incoming<u8>;");
    assert!(output.contains("as `impl Stream<Item = …>`"), "{output}");
    assert!(argument("Incoming<&str>").contains("write `String`"));
    assert!(argument("Incoming<[u8]>").contains("write `Vec<u8>`"));
    assert!(argument("Incoming<impl Copy>").contains("concrete type"));
    assert!(options("oneway").contains("before any item: remove `oneway`"));
    assert!(options("idempotent").contains("remove `idempotent`"));
    assert!(options("at_most_once").contains("remove `at_most_once`"));
    assert!(options("cancel = false").contains("remove `cancel`"));
    assert!(options("params = \"bare\"").contains("this method has 0"));
    let job = task("async fn f(&self, rows: Incoming<u8>);");
    assert!(job.contains("push a job for each item"), "{job}");
}

#[test]
fn types_that_cannot_be_sent() {
    let argument = |ty: &str| method(&format!("async fn f(&self, a: {ty});"));
    let output = |ty: &str| method(&format!("async fn f(&self) -> {ty};"));
    assert_eq!(
        argument("&str"),
        "a reference cannot be sent: write `String`"
    );
    assert_eq!(
        output("&'static str"),
        "a reference cannot be sent: write `String`"
    );
    assert_eq!(
        argument("&[Vec<u8>]"),
        "a reference cannot be sent: write `Vec<Vec<u8>>`"
    );
    assert_eq!(
        argument("&mut Point"),
        "a reference cannot be sent: pass it by value: write `Point`"
    );
    assert_eq!(
        argument("Vec<&str>"),
        "a reference cannot be sent: write `String`"
    );
    assert_eq!(
        output("Result<&str, E>"),
        "a reference cannot be sent: write `String`"
    );
    assert_eq!(argument("[u8]"), "a slice cannot be sent: write `Vec<u8>`");
    assert_eq!(argument("str"), "`str` cannot be sent: write `String`");
    assert_eq!(
        argument("impl Into<String>"),
        "`impl Trait` cannot be sent: write a concrete type"
    );
    assert_eq!(
        output("impl Display"),
        "`impl Trait` cannot be sent: write a concrete type"
    );
    assert_eq!(
        output("dyn Display"),
        "a trait object cannot be sent: write a concrete type"
    );
    assert_eq!(output("!"), "`!` cannot be sent: write a concrete type");
    assert_eq!(
        argument("Self"),
        "`Self` is unknown to the client: write a concrete type"
    );
    assert_eq!(
        output("Self::Out"),
        "`Self` is unknown to the client: write a concrete type"
    );
    assert_eq!(
        argument("Cow<'_, str>"),
        "borrowed data cannot be sent: write `'static` for `'_`"
    );
    for output in ["u8", "Result<u8, E>", "Option<()>"] {
        assert_eq!(
            task(&format!("async fn f(&self) -> {output};")),
            "a task has no reply: return nothing or `Result<(), E>`"
        );
    }
}

#[test]
fn names() {
    assert_eq!(arguments("name = \"\""), "a name cannot be empty");
    assert_eq!(
        arguments("queue = \"a\\n\""),
        "a name cannot hold a control character"
    );
    assert!(arguments("queue = \"amq.x\"").contains("belong to the broker"));
    assert!(arguments("name = \"amq.x\"").contains("belong to the broker"));
    let long = "x".repeat(256);
    assert!(arguments(&format!("name = \"{long}\"")).contains("this one has 256"));
    assert!(method(&format!("#[rpc(name = \"{long}\")] async fn f(&self);")).contains("256"));
    assert!(method("#[rpc(queue = \"\")] async fn f(&self);").contains("empty"));
    assert!(method(&format!("async fn {long}(&self);")).contains("256"));

    let taken = "the wire name `f` is taken by `f`: choose another with `#[rpc(name = \"…\")]`";
    assert_eq!(
        method("async fn f(&self); #[rpc(name = \"f\")] async fn g(&self);"),
        taken
    );
    assert_eq!(
        method("#[cfg(a)] async fn f(&self); #[cfg(b)] #[rpc(name = \"f\")] async fn g(&self);"),
        taken
    );
    for name in ["new", "builder", "local", "clone", "DESCRIPTOR", "r#new"] {
        let mistake = method(&format!("async fn {name}(&self);"));
        assert!(
            mistake.starts_with("the generated client has its own"),
            "{mistake}"
        );
    }
    for name in ["new", "with_producer", "clone"] {
        let mistake = task(&format!("async fn {name}(&self);"));
        assert!(
            mistake.starts_with("the generated producer has its own"),
            "{mistake}"
        );
        assert!(
            mistake.contains(&format!("`#[task(name = \"{name}\")]`")),
            "{mistake}"
        );
    }
    good(
        Kind::Tasks,
        "",
        "trait T { async fn local(&self); async fn builder(&self); }",
    );
}
