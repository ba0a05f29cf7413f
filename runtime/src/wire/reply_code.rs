//! Reply codes of AMQP 0-9-1 (section 1.2): the codes with which the broker closes a channel or a connection, and
//! returns a message.

/// A message is larger than the broker takes. Closes the channel.
pub(crate) const CONTENT_TOO_LARGE: u16 = 311;
/// No consumer for a message that was `immediate`. Closes the channel.
pub(crate) const NO_CONSUMERS: u16 = 313;
/// An operator has closed the connection, or the broker shuts down. Closes the connection.
pub(crate) const CONNECTION_FORCED: u16 = 320;
/// The user may not do this. Closes the channel; after a failed login, the connection.
pub(crate) const ACCESS_REFUSED: u16 = 403;
/// There is no such queue or exchange. Closes the channel.
pub(crate) const NOT_FOUND: u16 = 404;
/// The queue is exclusive to another connection. Closes the channel.
pub(crate) const RESOURCE_LOCKED: u16 = 405;
/// A condition of the method is not met: a queue exists with other properties, a message is too large for RabbitMQ, an
/// acknowledgement has timed out. Closes the channel.
pub(crate) const PRECONDITION_FAILED: u16 = 406;
/// The virtual host does not exist, or the user may not use it. Closes the connection.
pub(crate) const NOT_ALLOWED: u16 = 530;
/// The broker does not have the method. Closes the connection.
pub(crate) const NOT_IMPLEMENTED: u16 = 540;
/// A fault of the broker. Closes the connection.
pub(crate) const INTERNAL_ERROR: u16 = 541;

/// The codes that close a channel (AMQP's soft errors). All others close the connection, and are not about a message.
const CHANNEL_ERRORS: [u16; 6] = [
    CONTENT_TOO_LARGE,
    NO_CONSUMERS,
    ACCESS_REFUSED,
    NOT_FOUND,
    RESOURCE_LOCKED,
    PRECONDITION_FAILED,
];

/// Whether the broker closes a channel with this code, and leaves the connection open.
pub(crate) fn closes_channel(code: u16) -> bool {
    CHANNEL_ERRORS.contains(&code)
}
