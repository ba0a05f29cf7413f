//! The product and the version that a broker tells when one connects.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::AMQPValue;

const PATIENCE: Duration = Duration::from_secs(5);
const ENOUGH: usize = 64 * 1024;

/// Its version, if it listens without TLS.
pub fn version(host: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"AMQP\0\0\x09\x01").ok()?;
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while said.len() < ENOUGH {
        match stream.read(&mut part).ok()? {
            0 => return None,
            count => said.extend_from_slice(&part[..count]),
        }
        if let Ok((_, frame)) = parse_frame(&said[..]) {
            return version_in(frame);
        }
    }
    None
}

fn version_in(frame: AMQPFrame) -> Option<String> {
    let AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Start(start))) = frame
    else {
        return None;
    };
    match start.server_properties.inner().get("version")? {
        AMQPValue::LongString(version) => Some(version.to_string()),
        _ => None,
    }
}
