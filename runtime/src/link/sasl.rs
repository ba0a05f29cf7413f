//! SASL responses (`connection.start-ok`, `connection.secure-ok`), which are kept from lapin.
//!
//! lapin logs every frame that it sends at level TRACE. That includes `connection.start-ok` with the
//! password, whichever `AuthProvider` made the response. So lapin gets a mask of the same length, and
//! the write buffer replaces it with the response (see `socket/tune.rs`).

use std::fmt;

use amq_protocol::auth::{Credentials, SASLMechanism};
use lapin::auth::AuthProvider;
use lapin::types::{LongString, ShortString};
use lapin::uri::{AMQPUri, AMQPUserInfo};

/// The responses of one login. `Debug` shows none of them.
#[derive(Clone, Default)]
pub(super) struct Responses {
    /// In `connection.start-ok`.
    pub(super) start: Vec<u8>,
    /// In `connection.secure-ok`, which only RABBIT-CR-DEMO uses.
    pub(super) secure: Vec<u8>,
}

impl Responses {
    /// Removes the credentials from the URI for lapin. Returns the responses for the broker and the
    /// provider of their masks for lapin.
    pub(super) fn take(uri: &mut AMQPUri) -> (Self, Mask) {
        let empty = AMQPUserInfo {
            username: String::new(),
            password: String::new(),
        };
        let userinfo = std::mem::replace(&mut uri.authority.userinfo, empty);
        let mechanism = uri.query.auth_mechanism.unwrap_or_default();
        let credentials = Credentials::from(userinfo);
        let secure = match mechanism {
            SASLMechanism::RabbitCrDemo => credentials.rabbit_cr_demo_answer().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let responses = Self {
            start: credentials.sasl_auth_string(mechanism).as_bytes().to_vec(),
            secure,
        };
        let mask = Mask {
            mechanism,
            start: responses.start.len(),
            secure: responses.secure.len(),
        };
        (responses, mask)
    }
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").finish_non_exhaustive()
    }
}

/// The provider for lapin: it responds with asterisks, as many as the response has bytes.
#[derive(Debug)]
pub(super) struct Mask {
    mechanism: SASLMechanism,
    start: usize,
    secure: usize,
}

fn asterisks(length: usize) -> LongString {
    vec![b'*'; length].into()
}

impl AuthProvider for Mask {
    fn mechanism(&self) -> ShortString {
        self.mechanism.name().into()
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        Ok(asterisks(self.start))
    }

    fn continue_auth(&self, _: LongString) -> Result<LongString, String> {
        if self.secure == 0 {
            let mechanism = self.mechanism;
            return Err(format!(
                "the broker sent a challenge, which {mechanism} does not support"
            ));
        }
        Ok(asterisks(self.secure))
    }
}
