//! The one integration binary; one module per area.
mod demonstration;
mod large_vocabulary;
mod ops;
mod parity;
mod prompt;
mod rollout;
mod row_invariance;
mod sandbox;
mod tasks;
