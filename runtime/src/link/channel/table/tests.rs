//! Channel numbers, without a connection, and channels over a socket without the I/O task.

use super::*;

#[tokio::test(start_paused = true)]
async fn numbers_are_used_in_turn_and_not_before_their_delay_is_over() {
    let mut table = ChannelTable::default();
    let now = Instant::now();
    let numbers: Vec<_> = (0..5).map(|_| table.next_number(3, now)).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2].map(Some));
    table.delay_reuse(3, now + REUSE_DELAY);
    table.delay_reuse(1, now + 2 * REUSE_DELAY);
    assert_eq!(table.next_number(3, now), Some(2));
    assert_eq!(table.next_number(3, now), Some(2));
    assert_eq!(table.next_number(3, now + REUSE_DELAY), Some(3));
    assert_eq!(table.next_number(3, now + REUSE_DELAY), Some(2));
    assert_eq!(table.next_number(3, now + 2 * REUSE_DELAY), Some(3));
    assert_eq!(table.next_number(3, now + 2 * REUSE_DELAY), Some(1));
    assert!(table.delays.is_empty() && table.delayed.is_empty());
    table.delay_reuse(1, now + 3 * REUSE_DELAY);
    assert_eq!(table.next_number(1, now + 2 * REUSE_DELAY), None);
    assert_eq!(table.next_number(1, now + 3 * REUSE_DELAY), Some(1));
    assert_eq!(table.next_number(0, now), None);
    assert_eq!(table.next_number(u16::MAX, now), Some(2));
    table.last = u16::MAX;
    assert_eq!(table.next_number(u16::MAX, now), Some(1));
}
