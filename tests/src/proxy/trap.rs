//! A trap in one direction: the bytes after which it is to stall.

use super::Way;
use crate::eventually::eventually;
use tokio::sync::watch;

/// Set by [`Proxy::stall_after`](super::Proxy::stall_after).
#[derive(Debug)]
pub struct Trap {
    sprung: watch::Receiver<bool>,
}

impl Trap {
    /// Has it sprung?
    pub fn is_sprung(&self) -> bool {
        *self.sprung.borrow()
    }

    /// Waits until it has.
    pub async fn sprung(&self) {
        eventually("the bytes that the trap is set for", || async {
            self.is_sprung()
        })
        .await;
    }
}

/// The proxy's end of a trap.
#[derive(Debug)]
pub(super) struct Spring {
    way: Way,
    needle: Vec<u8>,
    sprung: watch::Sender<bool>,
}

pub(super) fn set(way: Way, needle: &[u8]) -> (Spring, Trap) {
    let (sender, sprung) = watch::channel(false);
    (
        Spring {
            way,
            needle: needle.to_vec(),
            sprung: sender,
        },
        Trap { sprung },
    )
}

impl Spring {
    /// The number of bytes of `new`, which follows `before` on one connection, that pass before
    /// the trap springs. `None`: it does not.
    pub(super) fn at(&self, way: Way, before: &[u8], new: &[u8]) -> Option<usize> {
        if way != self.way {
            return None;
        }
        let overlap = before.len().min(self.needle.len() - 1);
        let window = [&before[before.len() - overlap..], new].concat();
        let found = window
            .windows(self.needle.len())
            .position(|bytes| bytes == self.needle)?;
        Some(found + self.needle.len() - overlap)
    }

    pub(super) fn spring(self) {
        self.sprung.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_across_pieces() {
        let (spring, _trap) = set(Way::Up, b"needle");
        assert_eq!(spring.at(Way::Up, b"", b"a needle here"), Some(8));
        assert_eq!(spring.at(Way::Up, b"a nee", b"dle here"), Some(3));
        assert_eq!(
            spring.at(Way::Up, b"a needle", b" here"),
            None,
            "it has passed"
        );
        assert_eq!(spring.at(Way::Down, b"", b"needle"), None);
    }
}
