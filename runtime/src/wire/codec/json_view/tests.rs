//! Tests of the views: a reader of views gives back the values that were encoded.

use proptest::prelude::*;

use crate::wire::codec::Codec;

/// A value of MessagePack. Numbers are compared by value: an integer or a float may be encoded in several
/// widths.
#[derive(Clone, Debug, PartialEq)]
enum Sample {
    Nil,
    Bool(bool),
    Int(i128),
    /// The bits of an `f64`.
    Float(u64),
    /// A NaN, by the digits of its bits.
    Nan(String),
    Str(Vec<u8>),
    Bin(Vec<u8>),
    Ext(i8, Vec<u8>),
    List(Vec<Sample>),
    Map(Vec<(Sample, Sample)>),
}

fn float_of(value: f64) -> Sample {
    if value.is_nan() {
        Sample::Nan(format!("{:016x}", value.to_bits()))
    } else {
        Sample::Float(value.to_bits())
    }
}

fn samples() -> impl Strategy<Value = Sample> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        Just(Sample::Nil),
        any::<bool>().prop_map(Sample::Bool),
        any::<i64>().prop_map(|value| Sample::Int(value.into())),
        any::<u64>().prop_map(|value| Sample::Int(value.into())),
        (-40_i128..300).prop_map(Sample::Int),
        any::<u64>().prop_map(|bits| float_of(f64::from_bits(bits))),
        any::<f32>().prop_map(|value| float_of(value.into())),
        Just(float_of(f64::INFINITY)),
        Just(float_of(f64::NEG_INFINITY)),
        Just(float_of(7.0)),
        Just(float_of(-0.0)),
        ".{0,40}".prop_map(|text| Sample::Str(text.into_bytes())),
        "\\$(map|bytes|ext|text|float|body|json)?".prop_map(|text| Sample::Str(text.into_bytes())),
        bytes().prop_map(Sample::Str),
        bytes().prop_map(Sample::Bin),
        (any::<i8>(), bytes()).prop_map(|(kind, bytes)| Sample::Ext(kind, bytes)),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        let name = "[a-c$]{0,2}".prop_map(|text| Sample::Str(text.into_bytes()));
        let entries = prop::collection::vec((name, inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Sample::List),
            prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Sample::Map),
            entries.prop_map(Sample::Map),
        ]
    })
}

/// Encodes in the shortest form, or in the longest one.
fn encode(value: &Sample, is_short: bool, out: &mut Vec<u8>) {
    match value {
        Sample::Nil => out.push(0xc0),
        Sample::Bool(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Sample::Int(value) => encode_int(*value, is_short, out),
        Sample::Float(bits) => {
            let value = f64::from_bits(*bits);
            if is_short && f64::from(value as f32).to_bits() == *bits {
                out.push(0xca);
                out.extend((value as f32).to_be_bytes());
            } else {
                out.push(0xcb);
                out.extend(bits.to_be_bytes());
            }
        }
        Sample::Nan(digits) => {
            out.push(0xcb);
            out.extend(u64::from_str_radix(digits, 16).unwrap().to_be_bytes());
        }
        Sample::Str(bytes) => {
            match bytes.len() {
                length @ 0..=31 if is_short => out.push(0xa0 | length as u8),
                length => {
                    encode_length([Some(0xd9), Some(0xda), Some(0xdb)], length, is_short, out)
                }
            }
            out.extend(bytes);
        }
        Sample::Bin(bytes) => {
            let markers = [Some(0xc4), Some(0xc5), Some(0xc6)];
            encode_length(markers, bytes.len(), is_short, out);
            out.extend(bytes);
        }
        Sample::Ext(kind, bytes) => {
            let fixed = [1, 2, 4, 8, 16].iter().position(|it| *it == bytes.len());
            match fixed {
                Some(at) if is_short => out.push(0xd4 + at as u8),
                _ => {
                    let markers = [Some(0xc7), Some(0xc8), Some(0xc9)];
                    encode_length(markers, bytes.len(), is_short, out);
                }
            }
            out.extend(kind.to_be_bytes());
            out.extend(bytes);
        }
        Sample::List(elements) => {
            match elements.len() {
                length @ 0..=15 if is_short => out.push(0x90 | length as u8),
                length => encode_length([None, Some(0xdc), Some(0xdd)], length, is_short, out),
            }
            for element in elements {
                encode(element, is_short, out);
            }
        }
        Sample::Map(entries) => {
            match entries.len() {
                length @ 0..=15 if is_short => out.push(0x80 | length as u8),
                length => encode_length([None, Some(0xde), Some(0xdf)], length, is_short, out),
            }
            for (key, value) in entries {
                encode(key, is_short, out);
                encode(value, is_short, out);
            }
        }
    }
}

fn encode_int(value: i128, is_short: bool, out: &mut Vec<u8>) {
    match value {
        0..=0x7f if is_short => out.push(value as u8),
        -32..0 if is_short => out.push(value as i8 as u8),
        0..=0xff if is_short => out.extend([0xcc, value as u8]),
        -0x80..0 if is_short => out.extend([0xd0, value as i8 as u8]),
        0..=0xffff if is_short => {
            out.push(0xcd);
            out.extend((value as u16).to_be_bytes());
        }
        0..=0xffff_ffff if is_short => {
            out.push(0xce);
            out.extend((value as u32).to_be_bytes());
        }
        -0x8000..0 if is_short => {
            out.push(0xd1);
            out.extend((value as i16).to_be_bytes());
        }
        -0x8000_0000..0 if is_short => {
            out.push(0xd2);
            out.extend((value as i32).to_be_bytes());
        }
        0.. => {
            out.push(0xcf);
            out.extend((value as u64).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend((value as i64).to_be_bytes());
        }
    }
}

/// Markers with a length of one, two and four bytes.
fn encode_length(markers: [Option<u8>; 3], length: usize, is_short: bool, out: &mut Vec<u8>) {
    let [one, two, four] = markers;
    match (one, two) {
        (Some(marker), _) if is_short && length <= 0xff => out.extend([marker, length as u8]),
        (_, Some(marker)) if is_short && length <= 0xffff => {
            out.push(marker);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.extend(four);
            out.extend((length as u32).to_be_bytes());
        }
    }
}

/// A JSON value that keeps the text of its numbers and the order of its fields.
#[derive(Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Reads the compact JSON that a view is.
fn parse(text: &mut &str) -> Json {
    let skip = |text: &mut &str, part: &str| *text = text.strip_prefix(part).expect(part);
    match text.chars().next().expect("a value") {
        'n' => {
            skip(text, "null");
            Json::Null
        }
        't' => {
            skip(text, "true");
            Json::Bool(true)
        }
        'f' => {
            skip(text, "false");
            Json::Bool(false)
        }
        '"' => Json::Text(parse_text(text)),
        '[' => {
            skip(text, "[");
            let mut elements = Vec::new();
            while !text.starts_with(']') {
                elements.push(parse(text));
                *text = text.strip_prefix(',').unwrap_or(text);
            }
            skip(text, "]");
            Json::List(elements)
        }
        '{' => {
            skip(text, "{");
            let mut fields = Vec::new();
            while !text.starts_with('}') {
                let name = parse_text(text);
                skip(text, ":");
                fields.push((name, parse(text)));
                *text = text.strip_prefix(',').unwrap_or(text);
            }
            skip(text, "}");
            Json::Object(fields)
        }
        _ => {
            let end = text.find([',', ']', '}', ':']).unwrap_or(text.len());
            let (number, rest) = text.split_at(end);
            *text = rest;
            Json::Number(number.to_owned())
        }
    }
}

fn parse_text(text: &mut &str) -> String {
    let mut is_escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let (quoted, rest) = text.split_at(end.expect("a quotation mark") + 2);
    *text = rest;
    serde_json::from_str(quoted).expect("a text")
}

fn parse_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(text.len() % 4, 0, "{text}");
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in text.trim_end_matches('=').chars() {
        bits = bits << 6 | ALPHABET.find(digit).expect("a digit") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

/// The value that a view of MessagePack shows.
fn value_of(json: Json) -> Sample {
    match json {
        Json::Null => Sample::Nil,
        Json::Bool(value) => Sample::Bool(value),
        Json::Number(text) if text.contains(['.', 'e']) => float_of(text.parse().expect("a float")),
        Json::Number(text) => Sample::Int(text.parse().expect("an integer")),
        Json::Text(text) => Sample::Str(text.into_bytes()),
        Json::List(elements) => Sample::List(elements.into_iter().map(value_of).collect()),
        Json::Object(mut fields) => {
            let [(name, _)] = &fields[..] else {
                return object(fields);
            };
            if !name.starts_with('$') {
                return object(fields);
            }
            let (name, content) = fields.pop().expect("one field");
            match (&*name, content) {
                ("$bytes", Json::Text(text)) => Sample::Bin(parse_base64(&text)),
                ("$text", Json::Text(text)) => Sample::Str(parse_base64(&text)),
                ("$float", Json::Text(text)) => match text.strip_prefix("NaN ") {
                    Some(digits) => Sample::Nan(digits.to_owned()),
                    None if text == "Infinity" => float_of(f64::INFINITY),
                    None => float_of(f64::NEG_INFINITY),
                },
                ("$ext", Json::List(parts)) => match &parts[..] {
                    [Json::Number(kind), Json::Text(text)] => {
                        Sample::Ext(kind.parse().expect("a type"), parse_base64(text))
                    }
                    other => panic!("{other:?}"),
                },
                ("$map", Json::List(entries)) => {
                    let entries = entries.into_iter().map(|entry| match entry {
                        Json::List(parts) => {
                            let [key, value]: [Json; 2] = parts.try_into().expect("an entry");
                            (value_of(key), value_of(value))
                        }
                        other => panic!("{other:?}"),
                    });
                    Sample::Map(entries.collect())
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn object(fields: Vec<(String, Json)>) -> Sample {
    let entries = fields
        .into_iter()
        .map(|(name, value)| (Sample::Str(name.into_bytes()), value_of(value)));
    Sample::Map(entries.collect())
}

fn read_back(view: &str) -> Sample {
    let mut rest = view;
    let json = parse(&mut rest);
    assert_eq!(rest, "", "{view}");
    value_of(json)
}

#[test]
fn views_are_readable() {
    let view = |bytes: &[u8]| Codec::MsgPack.to_json(bytes);
    let resize = b"\x83\xa2id\x07\xa5width\xcd\x02\x80\xa4data\xc4\x02\x00\xff";
    assert_eq!(
        view(resize),
        r#"{"id":7,"width":640,"data":{"$bytes":"AP8="}}"#
    );
    for (bytes, expected) in [
        (&b"\x81\x07\xc3"[..], r#"{"$map":[[7,true]]}"#),
        (b"\x81\xa4$map\x90", r#"{"$map":[["$map",[]]]}"#),
        (b"\x82\xa1a\x01\xa1a\x02", r#"{"$map":[["a",1],["a",2]]}"#),
        (b"\xd6\x05abcd", r#"{"$ext":[5,"YWJjZA=="]}"#),
        (b"\xa1\xff", r#"{"$text":"/w=="}"#),
        (
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            "18446744073709551615",
        ),
        (b"\xca\x3f\x80\x00\x00", "1.0"),
        (b"\xca\x7f\x80\x00\x00", r#"{"$float":"Infinity"}"#),
        (b"\xca\x7f\xc0\x00\x00", r#"{"$float":"NaN 7fc00000"}"#),
        // No value, more than one, a length without content, an unused marker.
        (b"", r#"{"$body":""}"#),
        (b"\x01\x02", r#"{"$body":"AQI="}"#),
        (b"\xdd\xff\xff\xff\xff", r#"{"$body":"3f////8="}"#),
        (b"\xc1", r#"{"$body":"wQ=="}"#),
    ] {
        assert_eq!(view(bytes), expected, "{bytes:?}");
    }
    let deep = vec![0x91; 1 << 20];
    assert!(view(&deep).starts_with(r#"{"$body":"kZGR"#));
}

#[test]
fn json_is_shown_as_it_is() {
    for text in [
        "{ \"id\": 12345678901234567890123.50, \"id\": 7 }\n",
        "[1e400, \"\\u00fc\"]",
        "{\"other\":1,\"$bytes\":\"x\"}",
        "7",
    ] {
        assert_eq!(Codec::Json.to_json(text.as_bytes()), text);
    }
    let mark = r#"{"$body":"eA=="}"#;
    for wrapped in [mark, " { \"$x\" : 1, \"y\": 2}", r#"{"\u0024body":"eA=="}"#] {
        let view = Codec::Json.to_json(wrapped.as_bytes());
        assert_eq!(view, format!("{{\"$json\":{wrapped}}}"));
    }
    for (invalid, view) in [(&b"x"[..], mark), (b"\"\xff\"", r#"{"$body":"Iv8i"}"#)] {
        assert_eq!(Codec::Json.to_json(invalid), view);
    }
}

#[test]
fn text_and_bytes_are_shown() {
    assert_eq!(Codec::Text.to_json("\"hä\"\n".as_bytes()), r#""\"hä\"\n""#);
    assert_eq!(Codec::Text.to_json(b"\xff"), r#"{"$body":"/w=="}"#);
    assert_eq!(Codec::Bytes.to_json(b"\xff"), r#"{"$bytes":"/w=="}"#);
}

proptest! {
    #[test]
    fn a_view_loses_nothing(value in samples(), is_short: bool) {
        let mut bytes = Vec::new();
        encode(&value, is_short, &mut bytes);
        let view = Codec::MsgPack.to_json(&bytes);
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&view).is_ok(), "{}", view);
        prop_assert_eq!(read_back(&view), value, "{}", view);
    }

    #[test]
    fn different_bodies_of_json_have_different_views(
        one in "[\\{\\}\":$a-b0-9]{0,8}|\\{\"\\$(body|json)\":(\"[A-B=]*\"|\\{\\})\\}",
        other in "[\\{\\}\":$a-b0-9]{0,8}|\\{\"\\$(body|json)\":(\"[A-B=]*\"|\\{\\})\\}",
    ) {
        let view = |text: &str| Codec::Json.to_json(text.as_bytes());
        prop_assert_eq!(view(&one) == view(&other), one == other);
    }

    #[test]
    fn random_bytes_have_a_view(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for codec in [Codec::MsgPack, Codec::Json, Codec::Text, Codec::Bytes] {
            let view = codec.to_json(&bytes);
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&view).is_ok(), "{}", view);
        }
    }
}
