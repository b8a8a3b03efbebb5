//! What a run tells: numbers to files, progress to the terminal, samples to look at. A leaf: it knows names, numbers, text and pictures.

pub mod events;
pub mod gpu_peak;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod gpu_sensors;
pub mod samples;
pub mod versions;
pub mod wandb;
pub mod window;

pub use metrics::Metrics;
pub use progress::Progress;
