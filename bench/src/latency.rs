//! Latencies of one run, reads and writes apart.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::workload::Kind;

/// Latencies above are recorded as this.
const LATENCY_NANOS_MAX: u64 = 120_000_000_000;
/// Three digits: at most 0.1 % off.
const SIGNIFICANT_DIGITS: u8 = 3;

/// What was measured, by kind of request.
#[derive(Clone, Debug)]
pub struct Latencies {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
}

/// Figures of one histogram, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        let empty = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are valid");
        Self { reads: empty.clone(), writes: empty }
    }
}

impl Latencies {
    pub fn record(&mut self, kind: Kind, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NANOS_MAX);
        match kind {
            Kind::Read => self.reads.saturating_record(nanos),
            Kind::Write => self.writes.saturating_record(nanos),
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.reads.add(&other.reads).expect("all histograms have the same bounds");
        self.writes.add(&other.writes).expect("all histograms have the same bounds");
    }

    /// None where nothing of the kind was measured.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<Quantiles> {
        let histogram = match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
        };
        #[expect(clippy::cast_precision_loss, reason = "at most 120 s in nanoseconds: below 2^53")]
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Quantiles {
            count: histogram.len(),
            p50_us: micros(histogram.value_at_quantile(0.5)),
            p90_us: micros(histogram.value_at_quantile(0.9)),
            p99_us: micros(histogram.value_at_quantile(0.99)),
            max_us: micros(histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_latencies_recorded() {
        let mut latencies = Latencies::default();
        for micros in 1..=1000 {
            latencies.record(Kind::Write, Duration::from_micros(micros));
        }
        let quantiles = latencies.of(Kind::Write).expect("writes were recorded");
        for (found, expected) in [
            (quantiles.p50_us, 500.0),
            (quantiles.p90_us, 900.0),
            (quantiles.p99_us, 990.0),
            (quantiles.max_us, 1000.0),
        ] {
            assert!((found - expected).abs() <= expected * 0.002, "{found} is not {expected}");
        }
        assert!(latencies.of(Kind::Read).is_none());
    }

    #[test]
    fn what_took_longer_than_the_bound_is_kept_as_the_bound() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        one.record(Kind::Read, Duration::from_secs(500));
        other.record(Kind::Read, Duration::from_millis(1));
        one.add(&other);
        let quantiles = one.of(Kind::Read).expect("reads were recorded");
        assert_eq!(quantiles.count, 2);
        assert!(quantiles.max_us >= 119_000_000.0);
    }
}
