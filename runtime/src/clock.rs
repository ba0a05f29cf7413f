//! Deadlines and durations with arithmetic that cannot overflow, timers, timestamps, and the check for a runtime.
//!
//! Users may pass any `Duration`, even `Duration::MAX`. `Instant + Duration` and `Duration::mul_f64` panic if
//! the result cannot be represented, so durations of users are added and multiplied in this file only.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

/// The longest duration, 30 years, which is longer than any program runs. tokio's timers accept an `Instant`
/// this far ahead on every platform, and do not overflow when they round it.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The shortest and the longest time that a handler has left after the deadline of its nested calls.
const MIN_RESERVE: Duration = Duration::from_millis(5);
const MAX_RESERVE: Duration = Duration::from_millis(250);

/// The instant `limit` after `from`, at most 30 years after it.
pub(crate) fn deadline(from: Instant, limit: Duration) -> Instant {
    from.checked_add(limit.min(FAR)).unwrap_or(from)
}

/// A timer that fires even if its task has used up its budget (`tokio::task::coop`). It is boxed, because one is made
/// only where something has to wait, and a future that seldom waits would hold it all the time.
pub(crate) type Timer = Pin<Box<Unconstrained<Sleep>>>;

/// A timer that fires at this time.
pub(crate) fn timer(at: Instant) -> Timer {
    Box::pin(unconstrained(sleep_until(at)))
}

/// The deadline of calls that a handler makes: a little before its own, so that it can answer after such a call
/// timed out. The difference is 5 % of the time that is left when the handler starts, at least 5 ms and at most
/// 250 ms, but never more than half of the time left.
pub(crate) fn nested_deadline(start: Instant, deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(start);
    let reserve = (left / 20).clamp(MIN_RESERVE, MAX_RESERVE).min(left / 2);
    deadline.checked_sub(reserve).unwrap_or(deadline)
}

/// A duration times a factor, which is clamped to the range from 0 to 1.
pub(crate) fn fraction_of(duration: Duration, factor: f64) -> Duration {
    // `f64` rounds the longest durations up to more than a `Duration` can hold.
    let seconds = duration.as_secs_f64() * factor.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(seconds)
        .unwrap_or(duration)
        .min(duration)
}

/// A duration in milliseconds, rounded up: only zero is 0.
pub(crate) fn whole_millis(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

/// A duration in seconds, rounded up: only zero is 0.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    let part = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(part)
}

/// The wall clock in seconds since the Unix epoch, for timestamps that people read.
pub(crate) fn unix_seconds() -> Option<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_secs())
}

/// The wall clock in UTC, as RFC 3339 has it, for people: `2026-11-30T12:00:00Z`.
pub(crate) fn rfc3339_now() -> String {
    rfc3339(unix_seconds().unwrap_or_default())
}

fn rfc3339(unix_seconds: u64) -> String {
    let (days, time) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // The proleptic Gregorian calendar, in eras of 400 years that begin with a March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time % 3600 / 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The wall clock in milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> Option<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.ok()?.as_millis()).ok()
}

/// A timestamp of a message as a time; `None` if it is too far ahead for one.
pub(crate) fn from_unix_seconds(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Whether this thread is in a tokio runtime. Elsewhere tokio's timers and tasks panic.
pub(crate) fn is_in_runtime() -> bool {
    Handle::try_current().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const EXTREMES: [Duration; 6] = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(500),
        Duration::from_millis(u64::MAX),
        Duration::from_secs(i64::MAX as u64),
        Duration::MAX,
    ];

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[tokio::test]
    async fn every_deadline_can_be_waited_for() {
        let now = Instant::now();
        for limit in EXTREMES {
            let deadline = deadline(now, limit);
            assert!(deadline >= now, "{limit:?}");
            // tokio rounds it up to a whole millisecond, which must not overflow either.
            let waited = tokio::time::timeout_at(deadline, std::future::ready(())).await;
            assert!(waited.is_ok(), "{limit:?}");
        }
        assert_eq!(deadline(now, Duration::MAX), now + FAR);
        let far = deadline(now, Duration::MAX);
        assert!(deadline(far, Duration::MAX) >= far);
    }

    #[tokio::test]
    async fn nested_calls_end_before_their_handler() {
        let millis = Duration::from_millis;
        let now = Instant::now();
        for (left, reserve) in [
            (Duration::ZERO, Duration::ZERO),
            (millis(4), millis(2)),
            (millis(10), millis(5)),
            (millis(60), millis(5)),
            (millis(200), millis(10)),
            (millis(4_000), millis(200)),
            (millis(60_000), millis(250)),
            (FAR, millis(250)),
        ] {
            let nested = nested_deadline(now, now + left);
            assert_eq!(nested, now + left - reserve, "{left:?}");
        }
        // The deadline may have passed before the handler starts.
        assert_eq!(nested_deadline(now + millis(1), now), now);
    }

    #[test]
    fn only_zero_rounds_to_zero() {
        let millis = EXTREMES.map(whole_millis);
        assert_eq!(millis[..3], [0, 1, 1]);
        assert_eq!(EXTREMES.map(whole_seconds)[..3], [0, 1, 1]);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_fraction_is_no_more_than_the_whole(seconds: u64, nanos in 0u32..1_000_000_000, factor: f64) {
            let whole = Duration::new(seconds, nanos);
            prop_assert!(fraction_of(whole, factor) <= whole);
            prop_assert_eq!(fraction_of(whole, 0.0), Duration::ZERO);
        }
    }
}
