//! What a run tells: numbers to files, progress to the terminal. A leaf: it knows names and numbers only.

pub mod metrics;

pub use metrics::Metrics;
