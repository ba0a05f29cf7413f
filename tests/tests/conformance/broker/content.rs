//! Content headers and their properties.

use super::{EXCLUSIVE, GET_OK, exclusive, is, nothing, socket};
use lepus_tests::socket::{Answer, header, short};
use lepus_tests::{Env, conformance};

conformance!(
    bits_that_stand_for_no_property_are_handed_on,
    properties_that_are_not_as_announced_end_the_connection,
    a_header_is_as_the_standard_has_it,
    methods_have_no_more_fields_than_they_have,
);

async fn bits_that_stand_for_no_property_are_handed_on(env: Env) {
    let mut socket = socket(&env).await;
    let queue = env.name("bits");
    exclusive(&mut socket, &queue).await;
    for properties in [
        &b"\0\x01"[..],
        b"\0\x02",
        b"\x80\x03\x01a",
        b"\x80\0\x01\xff",
    ] {
        let header = header(0, 0, properties);
        socket.publish(b"", queue.as_bytes(), &header, b"").await;
        let got = socket.get(queue.as_bytes(), true).await;
        assert!(is(&got, GET_OK), "{properties:?}: {got:?}");
        assert_eq!(socket.answer().await, Answer::Header(properties.to_vec()));
    }
}

async fn properties_that_are_not_as_announced_end_the_connection(env: Env) {
    for properties in [
        &b"\0\0z"[..],
        b"\x80\0\x01az",
        b"\x80\0",
        b"\x80\0\x02a",
        b"",
        b"\0",
        b"\x20\0\0\0\0\x03\x01aQ",
        b"\x20\0\0\0\0\x09\x01aS\0\0\0\x09xx",
        // RabbitMQ's language has no number for these.
        b"\x20\0\0\0\0\x07\x01af\x7f\x80\0\0",
        b"\x20\0\0\0\0\x0b\x01ad\x7f\xf8\0\0\0\0\0\0",
        // `U` is in the standard, and not in RabbitMQ's.
        b"\x20\0\0\0\0\x05\x01aU\0\x01",
    ] {
        let mut socket = socket(&env).await;
        socket
            .publish(b"", b"q", &header(0, 0, properties), b"")
            .await;
        let expected = Answer::ConnectionClosed(541, "INTERNAL_ERROR".into());
        assert_eq!(socket.answer().await, expected, "{properties:?}");
    }
}

async fn a_header_is_as_the_standard_has_it(env: Env) {
    let whole = header(0, 1, &[0, 0]);
    let other_class = [&50_u16.to_be_bytes(), &whole[2..]].concat();
    for (header, code, text) in [
        (header(1, 1, &[0, 0]), 505, "got non content header"),
        (header(1, 0, &[0, 0]), 505, "got non content header"),
        (other_class, 505, "got one for class 50"),
        (whole[..11].to_vec(), 501, ""),
    ] {
        let mut socket = socket(&env).await;
        socket.publish(b"", b"q", &header, b"x").await;
        let answer = socket.answer().await;
        let Answer::ConnectionClosed(found, said) = &answer else {
            panic!("{header:?}: {answer:?}");
        };
        assert_eq!(*found, code, "{header:?}");
        assert!(said.contains(text), "{said}");
    }
}

async fn methods_have_no_more_fields_than_they_have(env: Env) {
    let queue = short(env.name("more").as_bytes());
    let declare = |more: &[u8]| [&[0, 0][..], &queue, &[EXCLUSIVE], nothing(), more].concat();
    for (method, fields) in [
        ((50, 10), declare(b"z")),
        (
            (60, 40),
            [&[0, 0][..], &short(b""), &queue, &[0, b'z']].concat(),
        ),
        ((60, 10), b"\0\0\0\0\0\x01\0z".to_vec()),
    ] {
        let answer = socket(&env).await.ask(method, &fields).await;
        let Answer::ConnectionClosed(501, _) = answer else {
            panic!("{method:?}: {answer:?}");
        };
    }
    // Bits that mean nothing are none of its business.
    let mut socket = socket(&env).await;
    let declared = socket.declare(&queue[1..], EXCLUSIVE | 0xe0, nothing());
    assert_eq!(declared.await.code(), 0);
}
