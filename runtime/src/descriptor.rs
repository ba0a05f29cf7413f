//! Descriptors of services and their methods. The macros generate them; clients and servers read them.

use std::borrow::Cow;
use std::time::Duration;

use crate::escape::printable;
use crate::wire::codec::Codec;

/// The description of a service: its name, its queue and its methods.
#[derive(Clone, Copy, Debug)]
pub struct ServiceDescriptor {
    name: &'static str,
    version: Option<&'static str>,
    doc: &'static str,
    queue: &'static str,
    codec: Option<Codec>,
    durable: bool,
    quorum: bool,
    methods: &'static [MethodDescriptor],
}

impl ServiceDescriptor {
    /// A service of this name, with a queue of the same name, in MessagePack.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, methods: &'static [MethodDescriptor]) -> Self {
        Self {
            name,
            version: None,
            doc: "",
            queue: name,
            codec: None,
            durable: true,
            quorum: false,
            methods,
        }
    }

    /// Sets the version.
    #[doc(hidden)]
    #[must_use]
    pub const fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets the documentation.
    #[doc(hidden)]
    #[must_use]
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// Sets the queue. Default: the service's name.
    #[doc(hidden)]
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the codec of requests that clients send, and of requests without a content type.
    #[doc(hidden)]
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Makes the queue transient: a restart of the broker deletes it.
    #[doc(hidden)]
    #[must_use]
    pub const fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Makes the queue a quorum queue.
    #[doc(hidden)]
    #[must_use]
    pub const fn quorum(mut self) -> Self {
        self.quorum = true;
        self
    }

    /// The service's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The service's version, if it has one.
    #[must_use]
    pub const fn service_version(&self) -> Option<&'static str> {
        self.version
    }

    /// The trait's documentation.
    #[must_use]
    pub const fn documentation(&self) -> &'static str {
        self.doc
    }

    /// The queue that the service consumes requests from.
    #[must_use]
    pub const fn queue_name(&self) -> &'static str {
        self.queue
    }

    /// The codec of requests without a content type.
    #[must_use]
    pub const fn default_codec(&self) -> Codec {
        match self.codec {
            Some(codec) => codec,
            None => Codec::MsgPack,
        }
    }

    /// The codec, if one was set.
    pub(crate) const fn chosen_codec(&self) -> Option<Codec> {
        self.codec
    }

    /// Whether the queue survives a restart of the broker.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        self.durable
    }

    /// Whether the queue is a quorum queue.
    #[must_use]
    pub const fn is_quorum(&self) -> bool {
        self.quorum
    }

    /// The name of a method with that of the service: `calculator/divide`. It is borrowed for methods of this service
    /// in generated code.
    pub(crate) fn full_name(&self, method: &MethodDescriptor) -> Cow<'static, str> {
        let own = method.full_name.strip_prefix(self.name);
        match own.and_then(|rest| rest.strip_prefix('/')) {
            Some(name) if name == method.name => Cow::Borrowed(method.full_name),
            _ => {
                let (service, method) = (printable(self.name), printable(method.name));
                Cow::Owned([&*service, "/", &*method].concat())
            }
        }
    }

    /// The methods.
    #[must_use]
    pub const fn methods(&self) -> &'static [MethodDescriptor] {
        self.methods
    }

    /// The method with the name of one that may be described by another version of the contract.
    pub(crate) fn method_like(
        &self,
        other: &MethodDescriptor,
    ) -> Option<&'static MethodDescriptor> {
        let is_it = |method: &&MethodDescriptor| method.name == other.name;
        let same_place = self.methods.get(other.id).filter(is_it);
        same_place.or_else(|| self.methods.iter().find(is_it))
    }

    /// The method for requests without a `type`, if there is one.
    #[must_use]
    pub fn default_target(&self) -> Option<&'static MethodDescriptor> {
        self.methods.iter().find(|method| method.default)
    }
}

/// One method of a service.
#[derive(Clone, Copy, Debug)]
pub struct MethodDescriptor {
    id: usize,
    name: &'static str,
    /// The name with that of the service before it, or empty.
    full_name: &'static str,
    doc: &'static str,
    arguments: &'static [&'static str],
    timeout: Option<Duration>,
    queue: Option<&'static str>,
    idempotent: bool,
    oneway: bool,
    at_most_once: bool,
    require_consumer: bool,
    runs_on: bool,
    default: bool,
    bare: bool,
    strict: bool,
    stream: bool,
    upload: bool,
}

impl MethodDescriptor {
    /// A method with its number in the trait and its name on the wire.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(id: usize, name: &'static str) -> Self {
        Self {
            id,
            name,
            full_name: "",
            doc: "",
            arguments: &[],
            timeout: None,
            queue: None,
            idempotent: false,
            oneway: false,
            at_most_once: false,
            require_consumer: false,
            runs_on: false,
            default: false,
            bare: false,
            strict: false,
            stream: false,
            upload: false,
        }
    }

    /// Sets the documentation.
    #[doc(hidden)]
    #[must_use]
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// Sets the name with that of the service before it, `calculator/divide`, so that no call has to join the two.
    #[doc(hidden)]
    #[must_use]
    pub const fn full_name(mut self, name: &'static str) -> Self {
        self.full_name = name;
        self
    }

    /// Sets the names of the arguments.
    #[doc(hidden)]
    #[must_use]
    pub const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    /// Sets the timeout of calls, in milliseconds.
    #[doc(hidden)]
    #[must_use]
    pub const fn timeout_millis(mut self, millis: u64) -> Self {
        self.timeout = Some(Duration::from_millis(millis));
        self
    }

    /// Gives the method a queue of its own.
    #[doc(hidden)]
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Marks a method that may run twice: a redelivered request is run again, and a call whose connection is lost
    /// is sent again. A redelivered request of another method is answered with `aborted` and not run.
    #[doc(hidden)]
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Marks a method without a reply.
    #[doc(hidden)]
    #[must_use]
    pub const fn oneway(mut self) -> Self {
        self.oneway = true;
        self
    }

    /// Marks a method that runs at most once: a request is acknowledged before its handler runs. If it is
    /// delivered again, it is not run, and the reply is `aborted`.
    #[doc(hidden)]
    #[must_use]
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// Marks a method whose calls fail at once if its queue has no consumer.
    #[doc(hidden)]
    #[must_use]
    pub const fn require_consumer(mut self) -> Self {
        self.require_consumer = true;
        self
    }

    /// Marks a method that runs on when its caller has given the call up.
    #[doc(hidden)]
    #[must_use]
    pub const fn not_cancelled(mut self) -> Self {
        self.runs_on = true;
        self
    }

    /// Makes this the method for requests without a `type`.
    #[doc(hidden)]
    #[must_use]
    pub const fn default_method(mut self) -> Self {
        self.default = true;
        self
    }

    /// Marks a method whose only argument is the body itself, instead of a map of arguments.
    #[doc(hidden)]
    #[must_use]
    pub const fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Marks a method that refuses arguments that it does not have, instead of ignoring them.
    #[doc(hidden)]
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Marks a method that returns a stream of items.
    #[doc(hidden)]
    #[must_use]
    pub const fn stream(mut self) -> Self {
        self.stream = true;
        self
    }

    /// Marks a method that takes a stream of items.
    #[doc(hidden)]
    #[must_use]
    pub const fn upload(mut self) -> Self {
        self.upload = true;
        self
    }

    /// The method's number in the trait, by which generated code dispatches.
    #[must_use]
    pub const fn id(&self) -> usize {
        self.id
    }

    /// The method's name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The method's documentation.
    #[must_use]
    pub const fn documentation(&self) -> &'static str {
        self.doc
    }

    /// The names of the arguments.
    #[must_use]
    pub const fn argument_names(&self) -> &'static [&'static str] {
        self.arguments
    }

    /// The timeout of calls, if the method has one.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The method's own queue, if it has one.
    #[must_use]
    pub const fn own_queue(&self) -> Option<&'static str> {
        self.queue
    }

    /// Whether a redelivered request is run again, and a call whose connection is lost is sent again.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether the method has no reply.
    #[must_use]
    pub const fn is_oneway(&self) -> bool {
        self.oneway
    }

    /// Whether the request is acknowledged before the handler runs, and run at most once.
    #[must_use]
    pub const fn is_at_most_once(&self) -> bool {
        self.at_most_once
    }

    /// Whether a call fails at once if the queue has no consumer.
    #[must_use]
    pub const fn requires_consumer(&self) -> bool {
        self.require_consumer
    }

    /// Whether the handler is dropped when its caller gives the call up.
    #[must_use]
    pub const fn is_cancellable(&self) -> bool {
        !self.runs_on
    }

    /// Whether the only argument is the body itself.
    #[must_use]
    pub const fn is_bare(&self) -> bool {
        self.bare
    }

    /// Whether a request with arguments that the method does not have is refused, instead of run without them.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether the method returns a stream of items.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.stream
    }

    /// Whether the method takes a stream of items ([`Incoming`](crate::Incoming)).
    #[must_use]
    pub const fn is_upload(&self) -> bool {
        self.upload
    }

    /// Whether a call of the method opens a stream, in either direction.
    pub(crate) const fn is_streaming(&self) -> bool {
        self.stream || self.upload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_is_that_of_generated_code_or_is_joined() {
        const METHODS: &[MethodDescriptor] = &[
            MethodDescriptor::new(0, "fib").full_name("calculator/fib"),
            MethodDescriptor::new(1, "a\nb"),
        ];
        let calculator = ServiceDescriptor::new("calculator", METHODS);
        let names = |service: &ServiceDescriptor| {
            METHODS
                .iter()
                .map(|it| service.full_name(it))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&calculator), ["calculator/fib", "calculator/a\\nb"]);
        assert!(matches!(names(&calculator).first(), Some(Cow::Borrowed(_))));
        // A method of another contract.
        let other = ServiceDescriptor::new("other", METHODS);
        assert_eq!(names(&other), ["other/fib", "other/a\\nb"]);
    }
}
