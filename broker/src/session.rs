//! One connection's conversation: the handshake, frames to commands, actions to frames,
//! heartbeats. No socket: bytes come in and go out as slices.

mod content;
#[cfg(test)]
mod fuzz;
mod handshake;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::protocol::{AMQPClass, channel, connection};

use self::{content::Inbound, handshake::Login};
use crate::{
    config::Config,
    core::{Action, Command, Outcome},
    exception::{Code, Exception},
    framing::{self, Frame, HEADER, Kind, put_confirm, put_content, put_heartbeat, put_method},
    id::ConnectionId,
};

/// How long a client may take to answer `connection.close`.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// The smallest frame_max a client may ask for, and the one in force until it has asked.
const FRAME_MIN: u32 = 4096;

/// What to do next, in this order.
#[derive(Debug)]
pub(crate) enum Event {
    /// Tell the core.
    Core(Command),
    /// Send, behind what the core has had sent so far.
    Send(Action),
    /// Send octets that are no frame.
    Raw(&'static [u8]),
    /// Write what is left, then close.
    End,
}

/// How the socket fares, which decides what silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The client is being read from.
    pub(crate) reads: bool,
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Empty,
    /// The client has not taken all there is for it.
    Pending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    StartOk,
    TuneOk,
    Open,
    Running,
    /// Waiting for `close-ok` until then.
    Closing(Instant),
    Ended,
}

#[derive(Debug)]
pub(crate) struct Session {
    id: ConnectionId,
    config: Arc<Config>,
    address: String,
    stage: Stage,
    login: Login,
    frame_max: usize,
    channel_max: u16,
    heartbeat: Duration,
    channels: BTreeMap<u16, Inbound>,
    /// Octets of messages that are still coming in.
    assembling: usize,
    started: Instant,
    received: Instant,
    sent: Instant,
}

impl Session {
    pub(crate) fn new(
        id: ConnectionId,
        config: Arc<Config>,
        address: String,
        now: Instant,
    ) -> Self {
        Self {
            id,
            address,
            stage: Stage::Header,
            login: Login::default(),
            // The size that both sides must take as long as nothing else is agreed on (4.2.3).
            frame_max: FRAME_MIN as usize,
            channel_max: config.limits.channels,
            heartbeat: Duration::ZERO,
            channels: BTreeMap::new(),
            assembling: 0,
            started: now,
            received: now,
            sent: now,
            config,
        }
    }

    /// Takes what came in; tells how many octets of it are used up.
    pub(crate) fn receive(&mut self, now: Instant, input: &[u8], events: &mut Vec<Event>) -> usize {
        self.received = now;
        let mut used = 0;
        while self.stage != Stage::Ended {
            let rest = input.get(used..).unwrap_or_default();
            if self.stage == Stage::Header {
                let Some(greeting) = rest.first_chunk::<8>() else {
                    break;
                };
                used += greeting.len();
                self.greet(greeting, events);
                continue;
            }
            match framing::cut(rest, self.frame_max) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    used += frame.size();
                    if let Err(exception) = self.frame(&frame, events) {
                        self.fail(now, exception, events);
                    }
                }
                Err(exception) => {
                    // Where the next frame starts is unknown from here on.
                    used = input.len();
                    self.fail(now, exception, events);
                    break;
                }
            }
        }
        if self.stage == Stage::Ended {
            input.len()
        } else {
            used
        }
    }

    /// Writes an action as frames.
    pub(crate) fn encode(&mut self, now: Instant, action: Action, out: &mut Vec<u8>) {
        if self.stage == Stage::Ended {
            return;
        }
        match action {
            Action::Send(channel, method) => {
                if let AMQPClass::Channel(channel::AMQPMethod::Close(_)) = *method {
                    // It is there again if the client's own close was read meanwhile: both sides
                    // close at once, and the client has to answer as well.
                    let inbound = self.channels.entry(channel).or_default();
                    self.assembling -= inbound.discard();
                }
                self.put(out, channel, *method);
            }
            Action::Confirm {
                channel,
                tag,
                outcome,
            } => {
                put_confirm(out, channel, tag, outcome, false);
            }
            Action::Content(channel, content) => {
                put_content(out, channel, &content, self.frame_max)
            }
            Action::Close(exception) => {
                self.stage = Stage::Closing(now + CLOSE_WAIT);
                let close = connection::Close {
                    reply_code: exception.code.number(),
                    reply_text: crate::arguments::short(&exception.reply_text()),
                    class_id: exception.class,
                    method_id: exception.method,
                };
                self.put(
                    out,
                    0,
                    AMQPClass::Connection(connection::AMQPMethod::Close(close)),
                );
            }
            Action::Pause | Action::Resume => {}
        }
    }

    /// Writes one confirm for several messages.
    pub(crate) fn encode_acks(&mut self, channel: u16, first: u64, last: u64, out: &mut Vec<u8>) {
        put_confirm(out, channel, last, Outcome::Ack, first < last);
    }

    /// When [`Session::timeout`] is next due.
    pub(crate) fn next_timeout(&self, flow: Flow) -> Option<Instant> {
        match self.stage {
            Stage::Ended => None,
            Stage::Closing(until) => Some(until),
            Stage::Running if self.heartbeat.is_zero() => None,
            Stage::Running => {
                let write = match flow.output {
                    Output::Empty => self.sent + self.heartbeat / 2,
                    Output::Pending => self.sent + self.heartbeat * 2,
                };
                Some(if flow.reads {
                    write.min(self.received + self.heartbeat * 2)
                } else {
                    write
                })
            }
            _ => Some(self.started + self.config.limits.handshake),
        }
    }

    /// Does what is due: sends a heartbeat, or gives up on a client that is silent or
    /// takes nothing.
    pub(crate) fn timeout(
        &mut self,
        now: Instant,
        flow: Flow,
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) {
        if self.next_timeout(flow).is_none_or(|due| due > now) {
            return;
        }
        let silent = flow.reads && now >= self.received + self.heartbeat * 2;
        if self.stage == Stage::Running && !silent && flow.output == Output::Empty {
            put_heartbeat(out);
            self.sent = now;
        } else {
            tracing::debug!(connection = %self.id, stage = ?self.stage, "gave up on a client");
            self.end(events);
        }
    }

    /// Octets were written: no heartbeat is needed for a while.
    pub(crate) fn restart_send_timeout(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Reading was held up by us: the client's silence until now is not its fault.
    pub(crate) fn restart_receive_timeout(&mut self, now: Instant) {
        self.received = now;
    }

    fn end(&mut self, events: &mut Vec<Event>) {
        if matches!(self.stage, Stage::Running) {
            events.push(Event::Core(Command::Disconnected(self.id)));
        }
        self.stage = Stage::Ended;
        events.push(Event::End);
    }

    /// Closes the connection for what the client sent.
    fn fail(&mut self, now: Instant, exception: Exception, events: &mut Vec<Event>) {
        match self.stage {
            Stage::Running => events.push(Event::Core(Command::Fail(self.id, 0, exception))),
            Stage::Closing(_) | Stage::Ended => return,
            _ => events.push(Event::Send(Action::Close(exception))),
        }
        self.stage = Stage::Closing(now + CLOSE_WAIT);
        self.channels.clear();
        self.assembling = 0;
    }

    fn frame(&mut self, frame: &Frame<'_>, events: &mut Vec<Event>) -> Result<(), Exception> {
        if frame.kind == Kind::Heartbeat {
            return match (frame.channel, frame.payload) {
                (0, []) => Ok(()),
                (0, _) => Err(Exception::new(Code::FrameError, "heartbeat with a payload")),
                _ => Err(Exception::new(
                    Code::UnexpectedFrame,
                    "heartbeat on a channel",
                )),
            };
        }
        match self.stage {
            Stage::Closing(_) => self.closing_frame(frame, events),
            Stage::Running if frame.channel == 0 => self.connection_method(frame, events),
            Stage::Running => self.channel_frame(frame, events),
            _ => self.handshake_frame(frame, events),
        }
    }

    /// While closing, only the client's own end of it matters.
    fn closing_frame(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        if frame.channel != 0 || frame.kind != Kind::Method {
            return Ok(());
        }
        match framing::method(frame.payload) {
            Ok(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => {
                self.stage = Stage::Ended;
                events.push(Event::End);
            }
            Ok(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.accept_close(events)
            }
            _ => {}
        }
        Ok(())
    }

    fn connection_method(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        if frame.kind != Kind::Method {
            return Err(Exception::new(
                Code::UnexpectedFrame,
                "content on channel 0",
            ));
        }
        use connection::AMQPMethod as M;
        match framing::method(frame.payload)? {
            AMQPClass::Connection(M::Close(_)) => {
                events.push(Event::Core(Command::Disconnected(self.id)));
                self.accept_close(events);
                Ok(())
            }
            AMQPClass::Connection(M::CloseOk(_)) => Ok(()),
            AMQPClass::Connection(M::UpdateSecret(_)) => {
                let ok = M::UpdateSecretOk(connection::UpdateSecretOk {});
                events.push(send(AMQPClass::Connection(ok)));
                Ok(())
            }
            method => Err(Exception::new(
                Code::ChannelError,
                "unexpected method in connection state running",
            )
            .of(method.get_amqp_class_id(), method.get_amqp_method_id())),
        }
    }

    fn accept_close(&mut self, events: &mut Vec<Event>) {
        let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        events.push(send(AMQPClass::Connection(ok)));
        events.push(Event::End);
        self.channels.clear();
        // Not ended before the answer is written.
        self.stage = Stage::Closing(self.received + CLOSE_WAIT);
    }

    fn put(&self, out: &mut Vec<u8>, channel: u16, method: AMQPClass) {
        if let Err(error) = put_method(out, channel, method) {
            tracing::error!(connection = %self.id, %error, "cannot write a frame");
        }
    }
}

fn send(method: AMQPClass) -> Event {
    Event::Send(Action::Send(0, Box::new(method)))
}

impl Session {
    /// Greets back, or tells the version there is and ends.
    fn greet(&mut self, greeting: &[u8; 8], events: &mut Vec<Event>) {
        // 0-9-1, and the way 0-9 clients used to write it.
        if greeting == HEADER || greeting == b"AMQP\x01\x01\0\x09" {
            self.stage = Stage::StartOk;
            events.push(send(AMQPClass::Connection(connection::AMQPMethod::Start(
                handshake::start(&self.config.product),
            ))));
        } else {
            self.stage = Stage::Ended;
            events.push(Event::Raw(HEADER));
            events.push(Event::End);
        }
    }
}
