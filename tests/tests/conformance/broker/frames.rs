//! The sizes of frames, and `connection.start`.

use super::{EXCLUSIVE, GET_OK, entry, exclusive, is};
use lepus_tests::socket::{Answer, FRAME_MIN, Socket, header, long, short};
use lepus_tests::{Env, conformance};

conformance!(
    a_payload_may_have_frame_max_octets,
    nothing_larger_than_4096_octets_comes_before_tune_ok,
    the_product_is_rabbitmq,
);

async fn a_payload_may_have_frame_max_octets(env: Env) {
    for (size, code) in [(4088, 0), (4089, 0), (4096, 0), (4097, 501)] {
        let mut socket = Socket::open(&env.uri, FRAME_MIN).await;
        let queue = env.name(&format!("body-{size}"));
        exclusive(&mut socket, &queue).await;
        socket.confirm().await;
        let body = vec![7; size];
        let header = header(0, size, &[0, 0]);
        socket.publish(b"", queue.as_bytes(), &header, &body).await;
        assert_eq!(socket.answer().await.code(), code, "{size} octets");
        if code == 0 {
            // What the broker sends is no larger than frame_max with all that is around it.
            assert!(is(&socket.get(queue.as_bytes(), true).await, GET_OK));
            socket.answer().await;
            let mut received = Vec::new();
            while received.len() < size {
                match socket.answer().await {
                    Answer::Body(chunk) => {
                        assert!(chunk.len() <= 4088);
                        received.extend(chunk);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(received, body);
        }
        // Methods are held to the same.
        let queue = env.name(&format!("method-{size}"));
        let mut socket = Socket::open(&env.uri, FRAME_MIN).await;
        let around = [&[0; 6][..], &short(queue.as_bytes()), &[0; 5]]
            .concat()
            .len();
        let around = around + entry(b"k", &[&b"S"[..], &long(b"")].concat()).len();
        let value = [&b"S"[..], &long(&vec![b'x'; size - around])].concat();
        let arguments = long(&entry(b"k", &value));
        let declared = socket.declare(queue.as_bytes(), EXCLUSIVE, &arguments);
        assert_eq!(declared.await.code(), code, "{size} octets");
    }
}

async fn nothing_larger_than_4096_octets_comes_before_tune_ok(env: Env) {
    for (size, fits) in [(4096, true), (4097, false), (131_072, false)] {
        let mut socket = Socket::dial(&env.uri).await;
        socket.answer().await;
        let around = 4 + socket.start_ok(0).len();
        let start_ok = socket.start_ok(size - around);
        socket.send(0, (10, 11), &start_ok).await;
        let answer = socket.answer().await;
        if fits {
            assert!(is(&answer, (10, 30)), "{size}: {answer:?}");
        } else {
            // RabbitMQ hangs up on it without a word.
            assert!(answer.is_end(), "{size}: {answer:?}");
        }
    }
}

async fn the_product_is_rabbitmq(env: Env) {
    let mut socket = Socket::dial(&env.uri).await;
    let Answer::Method((10, 10), fields) = socket.answer().await else {
        panic!("no connection.start");
    };
    let says = |key: &str, value: &str| {
        let entry = entry(
            key.as_bytes(),
            &[b"S", &long(value.as_bytes())[..]].concat(),
        );
        fields.windows(entry.len()).any(|window| window == entry)
    };
    assert!(says("product", "RabbitMQ"));
    if env.embedded().is_some() {
        assert!(says("version", "3.10.8"));
        let version = concat!("lepus-broker ", env!("CARGO_PKG_VERSION"));
        assert!(says("implementation", version));
    }
}
