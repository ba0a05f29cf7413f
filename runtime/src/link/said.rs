//! The broker's frames that Lepus reads itself: deliveries, what came back, and confirms.
//!
//! Laid out as in AMQP 0-9-1, 2.3.5 and 4.2. All else is lapin's to read.

use lapin::types::parsing::parse_field_table;

use super::convert;
use super::frame::{ACK, BASIC, NACK};
use crate::error::Error;
use crate::message::Properties;

const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;
const GET_EMPTY: u16 = 72;
const CHANNEL: u16 = 20;
const CLOSE: u16 = 40;
/// The length before a field table's entries.
const TABLE_SIZE: usize = 4;

/// A method, where it is one that Lepus hears.
#[derive(Debug)]
pub(super) enum Method {
    /// `basic.ack` and `basic.nack`.
    Confirm {
        tag: u64,
        multiple: bool,
        is_stored: bool,
    },
    /// `basic.deliver`.
    Deliver(Deliver),
    /// `basic.get-ok`.
    GetOk(Deliver),
    /// `basic.get-empty`.
    GetEmpty,
    /// `basic.return`.
    Return(Return),
    /// `channel.close`, which lapin is to read as well: it answers.
    Close(Error),
}

#[derive(Debug)]
pub(super) struct Deliver {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

#[derive(Debug)]
pub(super) struct Return {
    pub(super) text: String,
    pub(super) routing_key: String,
}

/// A content header.
#[derive(Debug)]
pub(super) struct Header {
    /// How many bytes of body follow.
    pub(super) size: u64,
    /// None where they are not as AMQP has them: a broker may pass on what a peer has made up.
    pub(super) properties: Option<Properties>,
}

/// Reads a method frame's payload; none of those that are lapin's alone.
pub(super) fn method(payload: &[u8]) -> Option<Method> {
    let mut rest = Rest(payload);
    match (rest.u16()?, rest.u16()?) {
        (BASIC, method @ (ACK | NACK)) => Some(Method::Confirm {
            tag: rest.u64()?,
            multiple: rest.u8()? & 1 == 1,
            is_stored: method == ACK,
        }),
        (BASIC, DELIVER) => {
            rest.short()?;
            Some(Method::Deliver(deliver(rest)?))
        }
        (BASIC, GET_OK) => Some(Method::GetOk(deliver(rest)?)),
        (BASIC, GET_EMPTY) => Some(Method::GetEmpty),
        (BASIC, RETURN) => {
            rest.u16()?;
            let text = rest.text()?;
            rest.short()?;
            let routing_key = rest.text()?;
            Some(Method::Return(Return { text, routing_key }))
        }
        (CHANNEL, CLOSE) => {
            let code = rest.u16()?;
            let text = rest.text()?;
            Some(Method::Close(convert::refusal(code, text)))
        }
        _ => None,
    }
}

fn deliver(mut rest: Rest<'_>) -> Option<Deliver> {
    Some(Deliver {
        tag: rest.u64()?,
        redelivered: rest.u8()? & 1 == 1,
        exchange: rest.text()?,
        routing_key: rest.text()?,
    })
}

/// Reads a content header frame's payload; none if it is too short for one.
pub(super) fn header(payload: &[u8]) -> Option<Header> {
    let mut rest = Rest(payload);
    rest.u16()?;
    rest.u16()?;
    let size = rest.u64()?;
    Some(Header {
        size,
        properties: properties(rest),
    })
}

fn properties(mut rest: Rest<'_>) -> Option<Properties> {
    let flags = rest.u16()?;
    let has = |bit: u32| flags & (1 << bit) != 0;
    let mut properties = Properties::default();
    let text = |rest: &mut Rest<'_>, bit: u32| -> Option<Option<String>> {
        if has(bit) {
            rest.text().map(Some)
        } else {
            Some(None)
        }
    };
    properties.content_type = text(&mut rest, 15)?;
    // Its encoding.
    if has(14) {
        rest.short()?;
    }
    if has(13) {
        let size = usize::try_from(Rest(rest.0).u32()?).ok()?;
        let (_, table) = parse_field_table(rest.take(TABLE_SIZE.checked_add(size)?)?).ok()?;
        properties.headers = convert::from_table(&table);
    }
    if has(12) {
        properties.persistent = rest.u8()? == convert::PERSISTENT;
    }
    if has(11) {
        properties.priority = Some(rest.u8()?);
    }
    properties.correlation_id = text(&mut rest, 10)?;
    properties.reply_to = text(&mut rest, 9)?;
    properties.expiration = text(&mut rest, 8)?;
    properties.message_id = text(&mut rest, 7)?;
    if has(6) {
        properties.timestamp = Some(rest.u64()?);
    }
    properties.kind = text(&mut rest, 5)?;
    // The user.
    if has(4) {
        rest.short()?;
    }
    properties.app_id = text(&mut rest, 3)?;
    Some(properties)
}

/// What is still to be read.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        self.take(SIZE)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.u8()?;
        self.take(size.into())
    }

    /// A peer may have put anything into it: what is no text is not worth the connection.
    fn text(&mut self) -> Option<String> {
        let bytes = self.short()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}
