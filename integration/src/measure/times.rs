//! How long something took, again and again.

use std::time::Duration;

use serde_json::{Value, json};

/// The times of one contestant at one thing.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Notes one more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle.
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The shortest.
    pub fn shortest(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// All that is worth keeping.
    pub fn json(&self) -> Value {
        json!({
            "median_ms": milliseconds(self.median()),
            "min_ms": milliseconds(self.shortest()),
            "max_ms": milliseconds(self.longest()),
            "runs": self.count(),
        })
    }
}

/// In milliseconds, to the hundredth.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
