//! The surroundings of a command: its global options, its output, and its connection.

use std::env;
use std::time::Duration;

use lepus::amqp::{ConnectionBuilder, Io};
use lepus::{Code, Connection};
use tokio::sync::OnceCell;

use crate::args::Globals;
use crate::contexts;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// The broker, if nothing names another.
const LOCAL: &str = "amqp://localhost";

/// The surroundings of a command.
pub(crate) struct App {
    globals: Globals,
    pub(crate) out: Output,
    connection: OnceCell<Connection>,
}

impl App {
    pub(crate) fn new(globals: Globals) -> Self {
        let out = Output::new(globals.output);
        Self {
            globals,
            out,
            connection: OnceCell::new(),
        }
    }

    /// The longest time to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.globals.timeout
    }

    /// The namespace, from the arguments or the environment.
    pub(crate) fn namespace(&self) -> Option<String> {
        let given = self.globals.namespace.clone();
        given.or_else(|| variable("LEPUS_NAMESPACE"))
    }

    /// The connection, which is opened by the first call of this method.
    ///
    /// # Errors
    /// The URL or the namespace is not valid, or the broker cannot be connected to.
    pub(crate) async fn connect(&self) -> Result<&Connection, Failure> {
        let open = || async { self.open(self.builder()?).await };
        self.connection.get_or_try_init(open).await
    }

    /// Opens a connection. A failure names the source of a URL that is none, and tells if no broker was named.
    ///
    /// # Errors
    /// The URL or the namespace is not valid, or the broker cannot be connected to.
    pub(crate) async fn open(&self, builder: ConnectionBuilder) -> Result<Connection, Failure> {
        let failed = match builder.open().await {
            Ok(connection) => return Ok(connection),
            Err(error) => Failure::from(error),
        };
        let (_, source) = self.url()?;
        Err(match (failed.exit(), source) {
            (Exit::Usage, source) => {
                Failure::usage(format!("{}: {}", source.name(), failed.text()))
            }
            (Exit::Connect, Source::Local) => Failure::new(
                Exit::Connect,
                format!(
                    "{}; no broker was named (--url, LEPUS_URL), and `lepus broker` serves one",
                    failed.text()
                ),
            ),
            _ => failed,
        })
    }

    /// Waits for something that a broker which has stalled would never give, within the [timeout](Self::timeout).
    ///
    /// # Errors
    /// Its own, or that the broker did not answer in time.
    pub(crate) async fn within<T, E: Into<Failure>>(
        &self,
        waiting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout(), waiting).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Failure::new(
                Exit::Status(Code::DeadlineExceeded),
                format!("the broker did not answer within {:?}", self.timeout()),
            )),
        }
    }

    /// A builder for another connection, which the caller closes.
    ///
    /// # Errors
    /// The contexts file cannot be read, or does not have the context.
    pub(crate) fn builder(&self) -> Result<ConnectionBuilder, Failure> {
        let (url, _) = self.url()?;
        let mut builder = Connection::builder(&url)
            // A program of one user's has no handlers that block the runtime, and waits for single answers.
            .io(Io::Shared)
            .connect_timeout(self.timeout())
            .name(concat!("lepus-cli ", env!("CARGO_PKG_VERSION")));
        if let Some(namespace) = self.namespace() {
            builder = builder.namespace(&namespace);
        }
        Ok(builder)
    }

    /// The URL of the broker, and where it comes from. It may contain a password, and is never shown.
    fn url(&self) -> Result<(String, Source), Failure> {
        if let Some(url) = &self.globals.url {
            return Ok((url.clone(), Source::Option));
        }
        if let Some(name) = &self.globals.context {
            return Ok((contexts::url(name)?, Source::Context(name.clone())));
        }
        for name in ["LEPUS_URL", "AMQP_URL"] {
            if let Some(url) = variable(name) {
                return Ok((url, Source::Variable(name)));
            }
        }
        Ok(match contexts::default_url()? {
            Some(url) => (url, Source::Context(contexts::DEFAULT.to_owned())),
            None => (LOCAL.to_owned(), Source::Local),
        })
    }

    /// Closes the connection, if it was opened.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.get() {
            connection.close().await;
        }
    }
}

/// The origin of the URL of the broker.
enum Source {
    Option,
    Context(String),
    Variable(&'static str),
    /// Nothing names a broker.
    Local,
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Option => "--url".to_owned(),
            Self::Context(name) => format!("the context `{name}`"),
            Self::Variable(name) => (*name).to_owned(),
            Self::Local => LOCAL.to_owned(),
        }
    }
}

/// A variable of the environment that is set, and not to nothing.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
