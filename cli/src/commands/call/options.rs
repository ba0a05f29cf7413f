//! Options of a call, from the command line and from the description of the method.

use lepus::rpc::{DynamicCall, DynamicStreamCall};

use super::Call;
use super::target::Target;
use crate::app::App;
use crate::failure::Failure;

/// The only form of streams that this command can call, as programs describe it.
const SERVER_STREAM: &str = "server";

/// The form of the reply of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Reply,
    OneWay,
    Stream,
}

/// Sets the options that the calls of both types have.
macro_rules! with_common_options {
    ($options:expr, $app:expr, $call:expr) => {{
        let mut call = $call.timeout($app.timeout());
        for (name, value) in &$options.headers {
            call = call.header(name, value.clone());
        }
        if let Some(priority) = $options.priority {
            call = call.priority(priority);
        }
        if $options.fail_fast {
            call = call.fail_fast();
        }
        call
    }};
}

impl Call {
    /// The form of the reply, as it was given or as a program has described it.
    ///
    /// # Errors
    /// An option does not go with it, or the method takes a stream of arguments.
    pub(super) fn form(&self, target: &Target) -> Result<Form, Failure> {
        let details = target.details();
        let form = match details.and_then(|details| details.stream.as_deref()) {
            Some(SERVER_STREAM) => Form::Stream,
            Some(_) => {
                return Err(Failure::usage(format!(
                    "{target} takes a stream of arguments, which this command cannot send"
                )));
            }
            None if self.stream && details.is_none() => Form::Stream,
            None if self.oneway || details.is_some_and(|it| it.oneway) => Form::OneWay,
            None => Form::Reply,
        };
        let wrong = [
            ("--raw", self.raw, form != Form::Reply),
            ("--repeat", self.repeat.is_some(), form == Form::Stream),
            ("--oneway", self.oneway, form == Form::Stream),
            ("--stream", self.stream, form != Form::Stream),
        ];
        match wrong
            .into_iter()
            .find(|(_, is_given, is_wrong)| *is_given && *is_wrong)
        {
            None => Ok(form),
            Some((option, ..)) => {
                let reply = match form {
                    Form::Stream => "a stream",
                    Form::OneWay => "no reply",
                    Form::Reply => "a single reply",
                };
                Err(Failure::usage(format!(
                    "{option} does not go with {target}, which has {reply}"
                )))
            }
        }
    }

    /// Sets the options of a call.
    pub(super) fn with_options(
        &self,
        app: &App,
        target: &Target,
        call: DynamicCall,
    ) -> DynamicCall {
        let details = target.details();
        let mut call = with_common_options!(self, app, call);
        if self.oneway || details.is_some_and(|it| it.oneway) {
            call = call.oneway();
        }
        if self.idempotent || details.is_some_and(|it| it.idempotent) {
            call = call.idempotent();
        }
        call
    }

    /// Sets the options of the call of a stream.
    pub(super) fn with_stream_options(
        &self,
        app: &App,
        call: DynamicStreamCall,
    ) -> DynamicStreamCall {
        with_common_options!(self, app, call)
    }
}
