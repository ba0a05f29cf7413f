//! Target of a call: the service, its queue, and the method.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use lepus::control::{Answer, EndpointInfo, ServiceInfo};
use lepus::rpc::{ClientBuilder, DynamicCall, DynamicClient, DynamicReply};
use lepus::{Code, Codec, Connection, Discovery};

use crate::exit::Exit;
use crate::failure::Failure;

/// The encoded arguments of a call.
pub(super) struct Body {
    pub(super) arguments: Bytes,
    /// The name and the encoded value of the only one, if it was given by its name.
    pub(super) single: Option<(String, Bytes)>,
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
    /// Whether running programs were asked about the method.
    was_asked: bool,
    /// Whether the only argument of the method is the body itself.
    is_bare: bool,
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
                is_bare: false,
            }),
            _ => Err(Failure::usage(format!(
                "`{text}` is no method: write SERVICE.METHOD, such as calculator.divide"
            ))),
        }
    }

    /// Makes a call. Running programs are asked, and the call is made once more, if it was not run because
    ///
    /// - the broker has no queue of the service's name, or the service's queue does not have the method: it may have
    ///   another queue;
    /// - the server does not understand the arguments, and there is one with a name: the method may have bare
    ///   parameters.
    pub(super) async fn call(
        &mut self,
        connection: &Connection,
        timeout: Duration,
        body: &Body,
        make: impl Fn(&DynamicClient, &str, Bytes) -> DynamicCall,
    ) -> Result<DynamicReply, Failure> {
        let mut failed = match self.call_once(connection, body, &make).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let is_elsewhere = failed.is_unroutable() || failed.code() == Some(Code::Unimplemented);
        let may_be_bare = is_undecodable(&failed) && body.single.is_some();
        let is_worth_asking = is_elsewhere && !self.is_given || may_be_bare;
        if !is_worth_asking || std::mem::replace(&mut self.was_asked, true) {
            return Err(failed.into());
        }
        let asked = Discovery::new(connection).limit(timeout);
        // Whatever the answer, the failure of the call is what the user wants to know.
        let infos = asked.info(&self.service).expect(1).await;
        let Some(info) = infos.ok().and_then(|infos| infos.into_iter().next()) else {
            return Err(failed.into());
        };
        let named = info.endpoints.iter().find(|it| it.name == self.method);
        let Some(endpoint) = named else {
            return Err(self.no_method(&info));
        };
        if is_elsewhere && endpoint.subject != self.queue {
            self.queue.clone_from(&endpoint.subject);
            self.client = None;
            failed = match self.call_once(connection, body, &make).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
        }
        if !is_undecodable(&failed) || !is_only_argument(endpoint, body) {
            return Err(failed.into());
        }
        self.is_bare = true;
        match self.call_once(connection, body, &make).await {
            // The method has no bare parameters, so the failure before this one tells what is wrong.
            Err(error) if is_undecodable(&error) => {
                self.is_bare = false;
                Err(failed.into())
            }
            result => Ok(result?),
        }
    }

    async fn call_once(
        &mut self,
        connection: &Connection,
        body: &Body,
        make: impl Fn(&DynamicClient, &str, Bytes) -> DynamicCall,
    ) -> Result<DynamicReply, lepus::Error> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.builder(connection)?.build(),
        };
        let client = self.client.insert(client);
        let arguments = match &body.single {
            Some((_, value)) if self.is_bare => value,
            _ => &body.arguments,
        };
        make(client, &self.method, arguments.clone()).await
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

    fn no_method(&self, info: &Answer<ServiceInfo>) -> Failure {
        let names: Vec<&str> = info.endpoints.iter().map(|it| it.name.as_str()).collect();
        let (service, method, names) = (&self.service, &self.method, names.join(", "));
        let text = format!("`{service}` has no method `{method}`; it has {names}");
        Failure::new(Exit::Status(Code::Unimplemented), text)
    }
}

/// Whether the server did not understand the arguments.
fn is_undecodable(error: &lepus::Error) -> bool {
    error.code() == Some(Code::InvalidArgument)
}

/// Whether the method has one argument, and the call has it by its name.
fn is_only_argument(endpoint: &EndpointInfo, body: &Body) -> bool {
    let named = body.single.as_ref().map(|(name, _)| name);
    endpoint.data.arguments.len() == 1 && endpoint.data.arguments.first() == named
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
