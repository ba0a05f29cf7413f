//! Dice: all that is random in a run comes from one number, so that a run can be had again.

use std::time::Duration;

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one actor: the same seed gives each the same throws.
    pub fn of(seed: u64, actor: &str) -> Dice {
        let start = actor.bytes().fold(seed, |mixed, byte| {
            mixed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        });
        Dice(start)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// Does nothing for a while. This is the pace of an actor, or the length of a fault: nothing is waited for, and no
    /// check depends on the length.
    pub async fn idle(&mut self, from: u64, to: u64) {
        tokio::time::sleep(self.millis(from, to)).await;
    }
}
