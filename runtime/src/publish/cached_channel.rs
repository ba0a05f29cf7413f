//! One channel shared by many callers: opened (`channel.open`) when one of them needs it, kept while
//! it is open, and replaced when it is not.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::Error;
use crate::link::{Channel, ConfirmChannel, Link, Session};
use crate::sync::lock;

/// A channel that a [`CachedChannel`] can keep.
pub(crate) trait Reusable {
    /// Whether the channel can still be used. One that cannot is replaced.
    fn is_usable(&self) -> bool;
}

impl Reusable for Channel {
    fn is_usable(&self) -> bool {
        self.is_open()
    }
}

impl Reusable for ConfirmChannel {
    fn is_usable(&self) -> bool {
        self.is_open()
    }
}

/// Keeps at most one channel.
#[derive(Debug)]
pub(crate) struct CachedChannel<C> {
    kept: Mutex<Option<Arc<C>>>,
    /// Held while a channel is opened: callers who find none share one instead of opening one each.
    opening: tokio::sync::Mutex<()>,
}

impl<C> Default for CachedChannel<C> {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }
}

impl<C: Reusable> CachedChannel<C> {
    /// The kept channel, if it is usable.
    pub(crate) fn get(&self) -> Option<Arc<C>> {
        let kept = self.kept();
        kept.as_ref().filter(|channel| channel.is_usable()).cloned()
    }

    /// The kept channel, or the one that `open` opens now. `open` is told whether an earlier channel
    /// was kept here that is no longer usable.
    ///
    /// Cancel-safe: a channel that is half open when the future is dropped is closed, and the next
    /// caller opens another one.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) async fn get_or_open<F>(&self, open: impl FnOnce(bool) -> F) -> Result<Arc<C>, Error>
    where
        F: Future<Output = Result<Arc<C>, Error>>,
    {
        let _opening = self.opening.lock().await;
        // Another caller may have opened one while this one waited for the lock.
        if let Some(channel) = self.get() {
            return Ok(channel);
        }
        // An unusable channel stays here until it is replaced: if this attempt is cancelled, the
        // next one still learns that there was one.
        let is_replacement = self.kept().is_some();
        let opened = open(is_replacement).await?;
        let replaced = self.kept().replace(Arc::clone(&opened));
        // Outside of the lock: dropping a channel closes it.
        drop(replaced);
        Ok(opened)
    }

    /// The same for a channel to publish on: waits for a session that accepts messages, and tries
    /// the next session when one is lost while the channel is opened.
    ///
    /// # Errors
    /// Those of `open`, and that the connection was closed.
    pub(crate) async fn get_or_open_on<F>(
        &self,
        link: &Link,
        open: impl Fn(Arc<Session>, bool) -> F,
    ) -> Result<Arc<C>, Error>
    where
        F: Future<Output = Result<Arc<C>, Error>>,
    {
        loop {
            let session = accepting_session(link).await?;
            let channel = self.get_or_open(|is_replacement| open(session, is_replacement));
            match channel.await {
                Err(error) if error.is_disconnected() => {}
                result => return result,
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<C>>> {
        lock(&self.kept)
    }
}

/// The session of a link, once it is up and accepts messages: the broker does not block the
/// connection (`connection.blocked`), and the write buffer has room.
///
/// # Errors
/// The connection was closed.
pub(crate) async fn accepting_session(link: &Link) -> Result<Arc<Session>, Error> {
    loop {
        let session = link.session().await?;
        if session.takes_messages() {
            return Ok(session);
        }
        session.writable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use crate::error::ErrorKind;

    struct Fake {
        number: usize,
        is_usable: AtomicBool,
    }

    impl Reusable for Fake {
        fn is_usable(&self) -> bool {
            self.is_usable.load(Ordering::Relaxed)
        }
    }

    #[derive(Default)]
    struct Opener {
        opened: AtomicUsize,
        replacements: AtomicUsize,
    }

    impl Opener {
        async fn open(&self, is_replacement: bool) -> Result<Arc<Fake>, Error> {
            tokio::task::yield_now().await;
            let number = self.opened.fetch_add(1, Ordering::Relaxed);
            self.replacements
                .fetch_add(usize::from(is_replacement), Ordering::Relaxed);
            Ok(Arc::new(Fake {
                number,
                is_usable: AtomicBool::new(true),
            }))
        }
    }

    #[tokio::test]
    async fn callers_share_a_channel_until_it_is_unusable() {
        let (cache, opener) = (CachedChannel::default(), Opener::default());
        let get = || cache.get_or_open(|is_replacement| opener.open(is_replacement));
        let (first, second) = tokio::join!(get(), get());
        let first = first.unwrap();
        assert_eq!((first.number, second.unwrap().number), (0, 0));
        first.is_usable.store(false, Ordering::Relaxed);
        assert!(cache.get().is_none());
        assert_eq!(get().await.unwrap().number, 1);
        assert_eq!(opener.replacements.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_or_cancelled_attempt_leaves_the_next_one_to_replace_the_channel() {
        let (cache, opener) = (CachedChannel::default(), Opener::default());
        let get = || cache.get_or_open(|is_replacement| opener.open(is_replacement));
        let first = get().await.unwrap();
        first.is_usable.store(false, Ordering::Relaxed);
        let refused = cache.get_or_open(async |_| Err(Error::new(ErrorKind::Disconnected)));
        assert!(refused.await.is_err());
        tokio::select! {
            biased;
            _ = get() => panic!("it yields first"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(opener.replacements.load(Ordering::Relaxed), 0);
        assert_eq!(get().await.unwrap().number, 1);
        assert_eq!(opener.replacements.load(Ordering::Relaxed), 1);
    }
}
