//! Target of a call: the service, its queue, and the method.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use lepus::control::{Answer, EndpointDetails, EndpointInfo, ServedKind, ServiceInfo};
use lepus::rpc::{ClientBuilder, DynamicClient};
use lepus::{Code, Codec, Connection, Discovery};

use super::arguments::Json;
use crate::exit::Exit;
use crate::failure::Failure;

/// The longest time to wait for the description of a service. A program that is stalled does not answer; the call is
/// made then without it.
const DESCRIPTION_LIMIT: Duration = Duration::from_secs(1);

/// The encoded arguments of a call.
pub(crate) struct Body {
    pub(crate) arguments: Bytes,
    /// The name and the encoded value of the only one, if it was given by its name.
    pub(crate) single: Option<(String, Bytes)>,
}

impl From<Json> for Body {
    /// The arguments in JSON.
    fn from(json: Json) -> Self {
        Self {
            arguments: json.text.into(),
            single: json.single.map(|(name, value)| (name, value.into())),
        }
    }
}

/// The service and the method that are called.
pub(crate) struct Target {
    service: String,
    method: String,
    queue: String,
    codec: Codec,
    /// The client of the queue, once there was a call.
    client: Option<DynamicClient>,
    /// Whether the queue was given, and is not only supposed to have the name of the service.
    is_given: bool,
    /// Whether running programs were asked about the service.
    was_asked: bool,
    /// The description of the service, if a program answered.
    info: Option<Answer<ServiceInfo>>,
}

impl Target {
    /// Parses `SERVICE.METHOD`. The last dot counts, because a service may have dots in its name.
    ///
    /// # Errors
    /// One of the two is missing.
    pub(crate) fn parse(text: &str, queue: Option<&str>, codec: Codec) -> Result<Self, Failure> {
        match text.rsplit_once('.') {
            Some((service, method)) if !service.is_empty() && !method.is_empty() => Ok(Self {
                service: service.to_owned(),
                method: method.to_owned(),
                queue: queue.unwrap_or(service).to_owned(),
                codec,
                client: None,
                is_given: queue.is_some(),
                was_asked: false,
                info: None,
            }),
            _ => Err(Failure::usage(format!(
                "`{text}` is no method: write SERVICE.METHOD, such as calculator.divide"
            ))),
        }
    }

    /// Asks a running program of the service about the method, once: for its queue, and for the form of its arguments
    /// and of its reply. Without an answer, the queue has the name of the service, and the arguments are a map.
    ///
    /// A request in another form than that of the method would be refused, which the server counts as an error.
    pub(crate) async fn look_up(&mut self, connection: &Connection, timeout: Duration) {
        if std::mem::replace(&mut self.was_asked, true) {
            return;
        }
        let discovery = Discovery::new(connection).limit(timeout.min(DESCRIPTION_LIMIT));
        // A call needs no description, so that an error here is none of the call.
        let infos = discovery.info(&self.service).expect(1).await;
        let infos = infos.into_iter().flatten();
        let mut services = infos.filter(|info| info.kind == ServedKind::Service);
        self.info = services.next();
        let Some(endpoint) = self.endpoint() else {
            return;
        };
        let queue = endpoint.subject.clone();
        if !self.is_given && queue != self.queue {
            self.queue = queue;
            self.client = None;
        }
    }

    fn endpoint(&self) -> Option<&EndpointInfo> {
        let endpoints = &self.info.as_ref()?.endpoints;
        endpoints.iter().find(|it| it.name == self.method)
    }

    /// The details of the method, if a program has told them.
    pub(crate) fn details(&self) -> Option<&EndpointDetails> {
        self.endpoint().map(|endpoint| &endpoint.data)
    }

    /// The body of a request with these arguments: the only one itself, if the method has bare parameters and the
    /// argument was given by its name.
    pub(crate) fn body(&self, body: &Body) -> Bytes {
        let details = self.details().filter(|details| details.bare);
        match (details, &body.single) {
            (Some(details), Some((name, value))) if details.arguments.first() == Some(name) => {
                value.clone()
            }
            _ => body.arguments.clone(),
        }
    }

    /// The client of the queue.
    ///
    /// # Errors
    /// The names are not valid.
    pub(super) fn client(
        &mut self,
        connection: &Connection,
    ) -> Result<&DynamicClient, lepus::Error> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.builder(connection)?.build(),
        };
        Ok(self.client.insert(client))
    }

    /// A builder for a client of the queue.
    ///
    /// # Errors
    /// The names are not valid.
    pub(crate) fn builder(
        &self,
        connection: &Connection,
    ) -> Result<ClientBuilder<DynamicClient>, lepus::Error> {
        let builder = DynamicClient::builder(connection, &self.service, &self.queue)?;
        Ok(builder.codec(self.codec))
    }

    /// The name of the method.
    pub(crate) fn method(&self) -> &str {
        &self.method
    }

    /// The failure of a call. If the service does not have the method, its methods are named.
    pub(super) fn failure(&self, error: lepus::Error) -> Failure {
        let info = self.info.as_ref().filter(|_| self.endpoint().is_none());
        let is_unrouted = error.is_unroutable() && !self.is_given;
        match info.filter(|_| is_unrouted || error.code() == Some(Code::Unimplemented)) {
            Some(info) => self.no_method(info),
            None => error.into(),
        }
    }

    fn no_method(&self, info: &ServiceInfo) -> Failure {
        let names: Vec<&str> = info.endpoints.iter().map(|it| it.name.as_str()).collect();
        let (service, method, names) = (&self.service, &self.method, names.join(", "));
        let text = format!("`{service}` has no method `{method}`; it has {names}");
        Failure::new(Exit::Status(Code::Unimplemented), text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dot_divides_service_and_method() {
        let target = Target::parse("shop.orders.place", None, Codec::Json).ok();
        let parts = target
            .as_ref()
            .map(|it| (it.service.as_str(), it.method.as_str()));
        assert_eq!(parts, Some(("shop.orders", "place")));
        for wrong in ["calculator", ".divide", "calculator.", "."] {
            assert!(Target::parse(wrong, None, Codec::Json).is_err(), "{wrong}");
        }
    }
}
