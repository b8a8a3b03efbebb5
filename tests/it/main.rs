//! The one integration binary; one module per area.
mod ops;
mod parity;
mod prompt;
mod rollout;
mod row_invariance;
mod sandbox;
mod tasks;
