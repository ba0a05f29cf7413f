//! Named arguments as generated code decodes them. A request may have some that the method does not have,
//! because its caller is of a later version or has misspelled them: a strict method refuses them, others ignore
//! them, which is logged once for each name.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::descriptor::MethodDescriptor;
use crate::escape::{Escaped, escaped};
use crate::policy::verdict::Verdict;
use crate::service::{Reply, Request};
use crate::sync::lock;
use crate::wire::codec::{self, Codec};
use crate::wire::status::{Code, Status};

/// So many names are logged for each method. They come from peers, and are kept as long as the process lives.
const LOGGED_NAMES: usize = 16;

#[doc(hidden)]
impl Request {
    /// Decodes the arguments, which are the fields of the struct `A`.
    ///
    /// # Errors
    /// An `invalid_argument` reply: they do not decode, or the method is strict and does not have one of them.
    pub fn decode_named<A: DeserializeOwned>(&self) -> Result<A, Reply> {
        let has_others = Cell::new(false);
        let arguments = self.named(&has_others).map_err(Reply::failed)?;
        if has_others.get() {
            self.check_others().map_err(refusal)?;
        }
        Ok(arguments)
    }

    /// As [`decode_named`](Self::decode_named), for a task.
    ///
    /// # Errors
    /// The verdict that rejects the job if they do not decode, or leaves it to a later worker if the task is
    /// strict and does not have one of them.
    pub fn decode_named_task<A: DeserializeOwned>(&self) -> Result<A, Verdict> {
        let has_others = Cell::new(false);
        let arguments = self.named(&has_others);
        let arguments = arguments.map_err(|status| Verdict::of_status(&status))?;
        if has_others.get() {
            self.check_others().map_err(Verdict::unknown_task)?;
        }
        Ok(arguments)
    }

    /// Checks the arguments for a method without any, whose body does not matter otherwise.
    ///
    /// # Errors
    /// An `invalid_argument` reply: the method is strict and there are some.
    pub fn no_arguments(&self) -> Result<(), Reply> {
        self.check_others().map_err(refusal)
    }

    /// As [`no_arguments`](Self::no_arguments), for a task.
    ///
    /// # Errors
    /// The verdict that leaves the job to a later worker.
    pub fn no_arguments_of_task(&self) -> Result<(), Verdict> {
        self.check_others().map_err(Verdict::unknown_task)
    }

    fn named<A: DeserializeOwned>(&self, has_others: &Cell<bool>) -> Result<A, Status> {
        let decoded = codec::decode_arguments(self.codec(), self.body(), has_others);
        decoded.map_err(|error| self.undecodable::<A>(error))
    }

    fn check_others(&self) -> Result<(), String> {
        if codec::is_plainly_empty(self.codec(), self.body()) {
            return Ok(());
        }
        check(self.descriptor(), self.codec(), self.body())
    }
}

fn refusal(text: String) -> Reply {
    Reply::failed(Status::new(Code::InvalidArgument, text))
}

/// Looks for arguments that the method does not have, and logs those that are ignored.
///
/// # Errors
/// The method is strict and there are some, which the text names.
#[cold]
fn check(method: &MethodDescriptor, codec: Codec, body: &[u8]) -> Result<(), String> {
    let unknown = codec::unknown_arguments(codec, method.argument_names(), body);
    if unknown.names.is_empty() {
        return Ok(());
    }
    if method.is_strict() {
        let names = method.argument_names();
        let known = match names {
            [] => "none".to_owned(),
            names => format!("`{}`", names.join("`, `")),
        };
        let noun = match unknown.names.len() {
            1 => "argument",
            _ => "arguments",
        };
        return Err(format!(
            "`{}` does not have the {noun} {}; it is strict and has {known}",
            method.name(),
            Escaped(unknown),
        ));
    }
    let context = Context::current();
    for name in unknown.names {
        log_once(&context, method.name(), name);
    }
    Ok(())
}

/// The names that were logged, by service and method.
static LOGGED: Mutex<BTreeMap<(String, &'static str), LoggedNames>> = Mutex::new(BTreeMap::new());

fn log_once(context: &Context, method: &'static str, name: String) {
    let service = context.service();
    let first_time = {
        let mut logged = lock(&LOGGED);
        let names = logged.entry((service.to_owned(), method)).or_default();
        names.add(&name)
    };
    match first_time {
        FirstTime::Yes => tracing::warn!(
            service = %Escaped(service),
            method,
            argument = %Escaped(name),
            app_id = escaped(context.app_id()),
            "a message has an argument that this version of the method does not have, ignored"
        ),
        FirstTime::YesOfMany => tracing::warn!(
            service = %Escaped(service),
            method,
            "messages have many arguments that the method does not have; further names are not logged"
        ),
        FirstTime::No => {}
    }
}

/// The names of one method that were logged.
#[derive(Debug, Default)]
struct LoggedNames {
    names: Vec<String>,
    are_too_many: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum FirstTime {
    Yes,
    /// There are too many names, which is to be said once.
    YesOfMany,
    No,
}

impl LoggedNames {
    fn add(&mut self, name: &str) -> FirstTime {
        if self.names.iter().any(|logged| logged == name) {
            FirstTime::No
        } else if self.names.len() < LOGGED_NAMES {
            self.names.push(name.to_owned());
            FirstTime::Yes
        } else if self.are_too_many {
            FirstTime::No
        } else {
            self.are_too_many = true;
            FirstTime::YesOfMany
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_method_names_what_it_does_not_have() {
        let method = MethodDescriptor::new(0, "find").strict();
        let check = |method, body: &[u8]| check(&method, Codec::Json, body);
        assert_eq!(
            check(method, br#"{"limit":1,"a\nb":2}"#).unwrap_err(),
            "`find` does not have the arguments `limit`, `a\\nb`; it is strict and has none"
        );
        assert_eq!(
            check(
                method.arguments(&["text", "limit"]),
                br#"{"page":{},"text":"x"}"#
            )
            .unwrap_err(),
            "`find` does not have the argument `page`; it is strict and has `text`, `limit`"
        );
        assert_eq!(
            check(method.arguments(&["limit"]), br#"{"limit":1}"#),
            Ok(())
        );
        assert_eq!(
            check(MethodDescriptor::new(0, "find"), br#"{"limit":1}"#),
            Ok(())
        );
    }

    #[test]
    fn each_name_is_logged_once_and_not_too_many_are() {
        let mut logged = LoggedNames::default();
        for at in 0..LOGGED_NAMES {
            assert_eq!(logged.add(&at.to_string()), FirstTime::Yes);
            assert_eq!(logged.add(&at.to_string()), FirstTime::No);
        }
        assert_eq!(logged.add("more"), FirstTime::YesOfMany);
        assert_eq!(logged.add("more"), FirstTime::No);
        assert_eq!(logged.add("others"), FirstTime::No);
        assert_eq!(logged.names.len(), LOGGED_NAMES);
    }
}
