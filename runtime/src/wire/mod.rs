//! The protocol of Lepus on AMQP 0-9-1 (docs/protocol.md): names, values, messages, headers and bodies,
//! without I/O.

pub(crate) mod batch;
pub(crate) mod codec;
pub(crate) mod envelope;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod reply_code;
pub(crate) mod status;
pub(crate) mod topology;
pub(crate) mod trace_headers;
pub(crate) mod value;
