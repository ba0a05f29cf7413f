//! Valid conversation of a client with the broker, which the fuzzing mutates.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame},
    protocol::{
        AMQPClass, BasicProperties, basic, channel, confirm, connection, exchange, queue, tx,
    },
    types::{AMQPValue, FieldTable},
};

use crate::arguments::long;

fn frame(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}

fn on(channel: u16, class: AMQPClass) -> Vec<u8> {
    frame(&AMQPFrame::Method(channel, class))
}

/// A valid conversation in pieces: the handshake, and then most methods.
pub(super) fn conversation() -> Vec<Vec<u8>> {
    use basic::AMQPMethod as B;
    use connection::AMQPMethod as C;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(3));
    arguments.insert("x-dead-letter-exchange".into(), long("e"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1000));
    let mut properties = FieldTable::default();
    properties.insert(
        "capabilities".into(),
        AMQPValue::FieldTable(arguments.clone()),
    );
    let mut pieces = vec![
        b"AMQP\0\0\x09\x01".to_vec(),
        on(
            0,
            AMQPClass::Connection(C::StartOk(connection::StartOk {
                client_properties: properties,
                mechanism: "PLAIN".into(),
                response: "\0guest\0guest".into(),
                locale: "en_US".into(),
            })),
        ),
        on(
            0,
            AMQPClass::Connection(C::TuneOk(connection::TuneOk {
                channel_max: 10,
                frame_max: 4096,
                heartbeat: 10,
            })),
        ),
        on(
            0,
            AMQPClass::Connection(C::Open(connection::Open {
                virtual_host: "/".into(),
            })),
        ),
        on(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        ),
        on(
            2,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        ),
        on(
            1,
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: "e".into(),
                kind: "topic".into(),
                passive: false,
                durable: false,
                auto_delete: true,
                internal: false,
                nowait: false,
                arguments: FieldTable::default(),
            })),
        ),
        on(
            1,
            AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: "q".into(),
                passive: false,
                durable: false,
                exclusive: true,
                auto_delete: false,
                nowait: false,
                arguments,
            })),
        ),
        on(
            1,
            AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                queue: "q".into(),
                exchange: "e".into(),
                routing_key: "a.#".into(),
                nowait: false,
                arguments: FieldTable::default(),
            })),
        ),
        on(
            1,
            AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
                nowait: false,
            })),
        ),
        on(
            2,
            AMQPClass::Basic(B::Qos(basic::Qos {
                prefetch_count: 2,
                global: false,
            })),
        ),
        on(
            2,
            AMQPClass::Basic(B::Consume(basic::Consume {
                queue: "q".into(),
                consumer_tag: "c".into(),
                no_local: false,
                no_ack: false,
                exclusive: false,
                nowait: false,
                arguments: FieldTable::default(),
            })),
        ),
    ];
    for _ in 0..3 {
        pieces.extend(message(1));
    }
    pieces.push(on(
        2,
        AMQPClass::Basic(B::Ack(basic::Ack {
            delivery_tag: 1,
            multiple: false,
        })),
    ));
    pieces.push(on(
        2,
        AMQPClass::Basic(B::Nack(basic::Nack {
            delivery_tag: 2,
            multiple: true,
            requeue: true,
        })),
    ));
    pieces.push(frame(&AMQPFrame::Heartbeat));
    pieces.push(on(
        1,
        AMQPClass::Basic(B::Get(basic::Get {
            queue: "q".into(),
            no_ack: false,
        })),
    ));
    pieces.extend(message(1));
    pieces.extend(transactions());
    pieces.push(on(
        1,
        AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        })),
    ));
    pieces.push(on(
        0,
        AMQPClass::Connection(C::Close(connection::Close {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        })),
    ));
    pieces
}

/// Two transactions on a channel of their own, the first committed, the second rolled back.
fn transactions() -> Vec<Vec<u8>> {
    use basic::AMQPMethod as B;
    let open = channel::AMQPMethod::Open(channel::Open {});
    let select = tx::AMQPMethod::Select(tx::Select {});
    let commit = tx::AMQPMethod::Commit(tx::Commit {});
    let rollback = tx::AMQPMethod::Rollback(tx::Rollback {});
    let get = basic::Get {
        queue: "q".into(),
        no_ack: false,
    };
    let ack = basic::Ack {
        delivery_tag: 0,
        multiple: true,
    };
    let mut pieces = vec![
        on(3, AMQPClass::Channel(open)),
        on(3, AMQPClass::Tx(select)),
    ];
    for end in [commit, rollback] {
        pieces.extend(message(3));
        pieces.push(on(3, AMQPClass::Basic(B::Get(get.clone()))));
        pieces.push(on(3, AMQPClass::Basic(B::Ack(ack.clone()))));
        pieces.push(on(3, AMQPClass::Tx(end)));
    }
    pieces
}

fn message(channel: u16) -> Vec<Vec<u8>> {
    let publish = basic::Publish {
        exchange: "e".into(),
        routing_key: "a.b".into(),
        mandatory: true,
        immediate: false,
    };
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![long("a.c")].into()));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_expiration("5000".into())
        .with_priority(1)
        .with_correlation_id("id".into());
    vec![
        on(
            channel,
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
        ),
        frame(&AMQPFrame::Header(
            channel,
            AMQPContentHeader {
                class_id: 60,
                body_size: 10,
                properties,
            },
        )),
        frame(&AMQPFrame::Body(channel, b"hello".to_vec())),
        frame(&AMQPFrame::Body(channel, b"world".to_vec())),
    ]
}
