//! Pseudo-random numbers that can be reproduced from a seed.

/// SplitMix64.
#[derive(Clone, Debug)]
pub(in crate::link) struct SeededRng(u64);

impl SeededRng {
    pub(in crate::link) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(in crate::link) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `most` - 1.
    pub(in crate::link) fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    /// True once in `times` calls on average.
    pub(in crate::link) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(in crate::link) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
