//! Declarations (`queue.declare`, `exchange.declare`, `queue.bind`) that outlive the connection they
//! began on.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{Error, Kind};
use crate::link::{self, Link, Namespace, Session};
use crate::wire::topology::Topology;

/// AMQP's INTERNAL_ERROR, over which a broker closes the connection.
const INTERNAL_ERROR: u16 = 541;
/// How long a broker that closes a connection may take for it.
const CLOSING: Duration = Duration::from_secs(5);

/// Whether a declaration is made once more on the next connection.
///
/// RabbitMQ 4.3 answers 541 to a declaration that meets an auto-delete exchange which went and came
/// back a moment ago; the next one succeeds.
#[derive(Debug, Default)]
pub(crate) struct OnceMore {
    is_used_up: bool,
}

impl OnceMore {
    /// Whether a declaration that failed on a session is to be made once more. Returns when that
    /// session is gone.
    pub(crate) async fn is_due(&mut self, error: &Error, session: &Session) -> bool {
        if self.is_used_up || error.amqp_code() != Some(INTERNAL_ERROR) {
            return false;
        }
        self.is_used_up = true;
        tracing::warn!(%error, "a declaration failed in the broker and is made once more");
        if tokio::time::timeout(CLOSING, session.down()).await.is_err() {
            tracing::debug!("the connection stays open after an error that closes it");
        }
        true
    }
}

/// Declares a topology on the session that is up, or on the next one when that is lost meanwhile,
/// and gives the session. In a task of its own: a set-up that is dropped half-way leaks a channel.
///
/// # Errors
/// The connection was closed, or the broker refuses.
pub(crate) async fn declare(
    link: &Link,
    tasks: &Handle,
    topology: &Topology,
    namespace: &Namespace,
) -> Result<Arc<Session>, Error> {
    let mut once_more = OnceMore::default();
    loop {
        let session = link.session().await?;
        let declaring = {
            let (session, topology) = (Arc::clone(&session), topology.clone());
            let namespace = namespace.clone();
            async move { link::declare(&session, &topology, &namespace).await }
        };
        let declared = tasks.spawn(declaring).await;
        let declared = declared.map_err(|ended| Error::new(Kind::Closed).caused_by(ended))?;
        match declared {
            Ok(()) => return Ok(session),
            Err(error) if error.is_disconnected() && !error.is_closed() => {}
            Err(error) if once_more.is_due(&error, &session).await => {}
            Err(error) => return Err(error),
        }
    }
}
