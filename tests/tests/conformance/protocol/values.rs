//! The vectors of single values, and the status codes.

use super::golden::{block, hex};
use lepus::{Code, Codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Variants {
    Empty,
    Only(u8),
    Pair(u8, u8),
    Named { x: u8 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Fib {
    n: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Optional {
    n: Option<u64>,
}

/// Bytes as the code that `#[lepus::service]` generates encodes them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Bytes(#[serde(with = "lepus::__rt::octets")] Vec<u8>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Blob {
    b: Vec<u8>,
}

/// The rows that are still to be checked: what to (MessagePack, JSON).
type Rows = BTreeMap<String, (Vec<u8>, String)>;

#[track_caller]
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    rows: &mut Rows,
    what: &str,
    value: T,
) {
    let (msgpack, json) = rows
        .remove(what)
        .unwrap_or_else(|| panic!("no row `{what}`"));
    let encoded = Codec::MsgPack.encode(&value).expect("it encodes");
    assert_eq!(encoded[..], msgpack, "{what}: {encoded:02x?}");
    let encoded = Codec::Json.encode(&value).expect("it encodes");
    assert_eq!(String::from_utf8_lossy(&encoded), json, "{what}");
    assert_eq!(
        Codec::MsgPack.decode::<T>(&msgpack).expect("it decodes"),
        value
    );
    assert_eq!(
        Codec::Json
            .decode::<T>(json.as_bytes())
            .expect("it decodes"),
        value
    );
}

#[test]
fn values_are_written_and_read_as_the_page_says() {
    let values = block("values");
    let rows = values.rows().map(|cells| match cells[..] {
        [what, msgpack, json] => (what.to_owned(), (hex(msgpack), json.to_owned())),
        _ => panic!("three cells: {cells:?}"),
    });
    let rows = &mut rows.collect::<Rows>();
    check(rows, "nothing", ());
    check(rows, "a truth value", true);
    check(rows, "a small number", 30u64);
    check(rows, "a larger one", 300u32);
    check(rows, "a negative one", -129i64);
    check(rows, "the largest unsigned", u64::MAX);
    check(rows, "the smallest signed", i64::MIN);
    check(rows, "a 64-bit float", 1.5f64);
    check(rows, "a 32-bit float", 1.5f32);
    check(rows, "a text", "häse".to_owned());
    check(rows, "a list", vec![1u8, 2, 3]);
    check(rows, "bytes", Bytes(vec![0, 255]));
    check(rows, "bytes inside a struct", Blob { b: vec![0, 255] });
    check(rows, "a tuple", (1u8, "a".to_owned()));
    check(rows, "no value (None)", None::<u64>);
    check(rows, "some value, which is the value", Some(5u64));
    check(rows, "a struct", Point { x: 1, y: -1 });
    check(rows, "a map", BTreeMap::from([("a".to_owned(), 1u8)]));
    check(
        rows,
        "a map with numbers for keys",
        BTreeMap::from([(1u8, "a".to_owned())]),
    );
    check(rows, "a variant without a value", Variants::Empty);
    check(rows, "a variant with a value", Variants::Only(5));
    check(rows, "a variant with several values", Variants::Pair(1, 2));
    check(
        rows,
        "a variant with named values",
        Variants::Named { x: 1 },
    );
    check(rows, "the arguments of fib(n = 30)", Fib { n: 30 });
    check(rows, "no arguments", Nothing {});
    assert!(rows.is_empty(), "nobody has checked {:?}", rows.keys());
}

#[test]
fn other_forms_are_read_as_the_page_says() {
    let forms = block("accepted");
    let mut seen = BTreeSet::new();
    for cells in forms.rows() {
        let [what, content_type, bytes] = cells[..] else {
            panic!("three cells: {cells:?}");
        };
        let codec = Codec::from_content_type(content_type).expect("a content type");
        let bytes = hex(bytes);
        seen.insert(what.to_owned());
        match what {
            "a number in more bytes than needed" => read(codec, &bytes, 30u64),
            "arguments by position" => read(codec, &bytes, Fib { n: 30 }),
            "a struct by position" | "a struct with a field more" | "a struct in another order" => {
                read(codec, &bytes, Point { x: 1, y: -1 });
            }
            "an optional field left out" => read(codec, &bytes, Optional { n: None }),
            "bytes as a list" => read(codec, &bytes, Bytes(vec![0, 255])),
            "bytes inside a struct, as bin" => read(codec, &bytes, Blob { b: vec![0, 255] }),
            _ => panic!("nobody checks `{what}`"),
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[track_caller]
fn read<T: DeserializeOwned + PartialEq + Debug>(codec: Codec, bytes: &[u8], value: T) {
    assert_eq!(codec.decode::<T>(bytes).expect("it is read"), value);
}

#[test]
fn the_codes_are_those_of_the_page() {
    let codes = block("codes");
    let names: Vec<&str> = codes
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let code: Code = name
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(code.as_str(), name);
    }
}
