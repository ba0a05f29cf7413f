//! Latencies in little memory, whatever their number: 32 buckets for each power of two, so that a
//! figure is right to 3 %.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const FINE: usize = 32;
const BUCKETS: usize = 40 * FINE;

pub struct Histogram {
    buckets: Box<[AtomicU64]>,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn record(&self, nanos: u64) {
        let at = match nanos.checked_ilog2() {
            Some(power) if power >= FINE.ilog2() => {
                let shift = power - FINE.ilog2();
                (shift as usize + 1) * FINE + ((nanos >> shift) as usize & (FINE - 1))
            }
            _ => nanos as usize,
        };
        self.buckets[at.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// The latency that this share of all stays below, in nanoseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|count| count.load(Relaxed))
            .collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return middle(at);
            }
        }
        f64::NAN
    }
}

fn middle(at: usize) -> f64 {
    if at < FINE {
        return at as f64;
    }
    let width = (1u64 << (at / FINE - 1)) as f64;
    ((FINE + at % FINE) as f64 + 0.5) * width
}
