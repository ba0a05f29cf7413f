//! The handshake: login, limits, virtual host.

use amq_protocol::{
    protocol::{AMQPClass, connection},
    types::{AMQPValue, FieldTable},
};

use crate::{
    arguments::{capability, long, text},
    config::Product,
    core::{Action, Client, Command},
    exception::{Code, Exception, access_refused, not_allowed},
    framing::{self, Frame, Kind},
    session::{Event, FRAME_MIN, Session, Stage, send},
    table,
};

/// What is known of a client before it has opened a virtual host.
#[derive(Debug, Default)]
pub(super) struct Login {
    user: String,
    properties: FieldTable,
    heartbeat: u16,
}

/// `connection.start` as this broker sends it.
pub(super) fn start(product: &Product) -> connection::Start {
    let mut capabilities = FieldTable::default();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties.insert("cluster_name".into(), long("lepus-broker"));
    properties.insert("copyright".into(), long("The Lepus authors"));
    properties.insert(
        "information".into(),
        long("Licensed under MIT or Apache-2.0"),
    );
    properties.insert("platform".into(), long("Rust"));
    properties.insert("product".into(), long(&product.name));
    properties.insert("version".into(), long(&product.version));
    properties.insert(
        "implementation".into(),
        long(concat!("lepus-broker ", env!("CARGO_PKG_VERSION"))),
    );
    connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: properties,
        mechanisms: "PLAIN AMQPLAIN".into(),
        locales: "en_US".into(),
    }
}

impl Session {
    pub(super) fn handshake_frame(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        if frame.kind != Kind::Method || frame.channel != 0 {
            return Err(Exception::new(
                Code::UnexpectedFrame,
                "expected a method on channel 0",
            ));
        }
        use connection::AMQPMethod as M;
        let method = framing::method(frame.payload)?;
        let ids = (method.get_amqp_class_id(), method.get_amqp_method_id());
        match (self.stage, method) {
            (Stage::StartOk, AMQPClass::Connection(M::StartOk(ok))) => self.start_ok(ok, events),
            (Stage::TuneOk, AMQPClass::Connection(M::TuneOk(ok))) => self.tune_ok(&ok),
            (Stage::Open, AMQPClass::Connection(M::Open(open))) => {
                self.open(open.virtual_host.as_str(), events)
            }
            (_, AMQPClass::Connection(M::Close(_))) => {
                self.accept_close(events);
                Ok(())
            }
            _ => Err(Exception::new(
                Code::CommandInvalid,
                "not the next step of the handshake",
            )),
        }
        .map_err(|exception| exception.of(ids.0, ids.1))
    }

    fn start_ok(
        &mut self,
        ok: connection::StartOk,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        self.login.properties = ok.client_properties;
        let mechanism = ok.mechanism.as_str();
        let credentials = match mechanism {
            "PLAIN" => plain(ok.response.as_bytes()),
            "AMQPLAIN" => amqplain(ok.response.as_bytes()),
            _ => {
                return Err(Exception::new(
                    Code::CommandInvalid,
                    format!("unknown authentication mechanism '{mechanism}'"),
                ));
            }
        };
        let admitted = credentials
            .filter(|(user, password)| self.config.authenticates(user, password))
            .and_then(|(user, _)| String::from_utf8(user).ok());
        let Some(user) = admitted else {
            // Older clients take the closed socket itself as the refusal.
            if !capability(&self.login.properties, "authentication_failure_close") {
                self.end(events);
                return Ok(());
            }
            return Err(access_refused(format!(
                "Login was refused using authentication mechanism {mechanism}. For details see the \
                 broker logfile."
            ))
            .on_connection());
        };
        self.login.user = user;
        self.stage = Stage::TuneOk;
        let limits = &self.config.limits;
        let tune = connection::Tune {
            channel_max: limits.channels,
            frame_max: limits.frame,
            heartbeat: u16::try_from(limits.heartbeat.as_secs()).unwrap_or(u16::MAX),
        };
        events.push(send(AMQPClass::Connection(connection::AMQPMethod::Tune(
            tune,
        ))));
        Ok(())
    }

    fn tune_ok(&mut self, ok: &connection::TuneOk) -> Result<(), Exception> {
        let limits = &self.config.limits;
        if ok.frame_max != 0 && ok.frame_max < FRAME_MIN {
            return Err(not_allowed(format!(
                "negotiated frame_max = {} is lower than the minimum allowed value ({FRAME_MIN})",
                ok.frame_max
            )));
        }
        within("frame_max", ok.frame_max, limits.frame)?;
        within("channel_max", ok.channel_max.into(), limits.channels.into())?;
        self.frame_max = ok.frame_max as usize;
        self.channel_max = ok.channel_max;
        self.login.heartbeat = ok.heartbeat;
        self.stage = Stage::Open;
        Ok(())
    }

    fn open(&mut self, vhost: &str, events: &mut Vec<Event>) -> Result<(), Exception> {
        let user = self.login.user.as_str();
        let Some(vhost) = self
            .config
            .vhosts()
            .find(|known| ***known == *vhost)
            .cloned()
        else {
            return Err(not_allowed(format!("vhost {vhost} not found")));
        };
        if !self.config.may_open(user, &vhost) {
            return Err(not_allowed(format!(
                "access to vhost '{vhost}' refused for user '{user}'"
            )));
        }
        let properties = &self.login.properties;
        let property = |name: &str| properties.inner().get(name).and_then(text);
        let client = Client {
            user: user.into(),
            vhost,
            address: self.address.clone(),
            name: property("connection_name"),
            product: property("product"),
            supports_cancel_notify: capability(properties, "consumer_cancel_notify"),
            supports_blocked: capability(properties, "connection.blocked"),
            frame_max: self.frame_max,
            channel_max: self.channel_max,
            heartbeat: self.login.heartbeat,
        };
        self.login.properties = FieldTable::default();
        self.heartbeat = std::time::Duration::from_secs(self.login.heartbeat.into());
        self.stage = Stage::Running;
        events.push(Event::Core(Command::Open(self.id, client)));
        let ok = connection::AMQPMethod::OpenOk(connection::OpenOk {});
        events.push(Event::Send(Action::Send(
            0,
            Box::new(AMQPClass::Connection(ok)),
        )));
        Ok(())
    }
}

/// Checks a client's choice against the broker's limit, where zero asks for none.
fn within(name: &str, chosen: u32, limit: u32) -> Result<(), Exception> {
    if chosen == 0 {
        return Err(not_allowed(format!(
            "negotiated {name} = 0 (no limit) is higher than the maximum allowed value ({limit})"
        )));
    }
    if chosen > limit {
        return Err(not_allowed(format!(
            "negotiated {name} = {chosen} is higher than the maximum allowed value ({limit})"
        )));
    }
    Ok(())
}

/// `\0user\0password`, or with an identity to act as in front.
fn plain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = response.splitn(3, |octet| *octet == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((user.to_vec(), password.to_vec()))
}

/// A table with `LOGIN` and `PASSWORD`, without its length.
fn amqplain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let table = table::parse(response).ok()?;
    let text = |name: &str| match table.inner().get(name) {
        Some(AMQPValue::LongString(value)) => Some(value.as_bytes().to_vec()),
        _ => None,
    };
    Some((text("LOGIN")?, text("PASSWORD")?))
}
