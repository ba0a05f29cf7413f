//! One call as AMQP frames, byte for byte.

use super::golden::{Message, block, hex};
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::{AMQPClass, basic};

fn bytes(frame: &AMQPFrame) -> Vec<u8> {
    let written = gen_frame(frame)(WriteContext::from(Vec::new())).expect("it is written");
    written.into_inner().0
}

#[test]
fn the_frames_are_what_the_messages_are() {
    for name in ["rpc.request", "rpc.reply"] {
        let message = Message::golden(name);
        let properties = message.properties();
        let to = match properties.reply_to() {
            Some(_) => message.fields["routing-key"].clone(),
            None => "lepus.reply.0123456789ABCDEFGHIJkl".to_owned(),
        };
        let publish = basic::Publish {
            exchange: "".into(),
            routing_key: to.as_str().into(),
            mandatory: true,
            immediate: false,
        };
        let publish = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: message.body.len() as u64,
            properties,
        };
        let frames = [
            AMQPFrame::Method(1, publish),
            AMQPFrame::Header(1, header),
            AMQPFrame::Body(1, message.body),
        ];
        let block = block(&format!("frames {name}"));
        let mut written = block.lines().map(hex);
        for frame in frames {
            let (expected, seen) = (written.next().expect("three frames"), bytes(&frame));
            let seen: String = seen.iter().map(|byte| format!("{byte:02x} ")).collect();
            assert_eq!(hex(&seen), expected, "{name}: {seen}");
        }
        assert_eq!(written.next(), None, "three frames");
    }
}
