//! The numbers of channels, without a connection.

use super::*;

#[tokio::test(start_paused = true)]
async fn numbers_are_used_in_turn_and_rest_where_the_broker_may_have_an_echo() {
    let mut table = Table::default();
    let now = Instant::now();
    let numbers: Vec<_> = (0..5).map(|_| table.free_number(3, now)).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2].map(Some));
    table.rest(3, now + REST);
    table.rest(1, now + 2 * REST);
    assert_eq!(table.free_number(3, now), Some(2));
    assert_eq!(table.free_number(3, now), Some(2));
    assert_eq!(table.free_number(3, now + REST), Some(3));
    assert_eq!(table.free_number(3, now + REST), Some(2));
    assert_eq!(table.free_number(3, now + 2 * REST), Some(3));
    assert_eq!(table.free_number(3, now + 2 * REST), Some(1));
    assert!(table.rests.is_empty() && table.resting.is_empty());
    table.rest(1, now + 3 * REST);
    assert_eq!(table.free_number(1, now + 2 * REST), None);
    assert_eq!(table.free_number(1, now + 3 * REST), Some(1));
    assert_eq!(table.free_number(0, now), None);
    assert_eq!(table.free_number(u16::MAX, now), Some(2));
    table.last = u16::MAX;
    assert_eq!(table.free_number(u16::MAX, now), Some(1));
}
