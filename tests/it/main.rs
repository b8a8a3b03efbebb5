//! The one integration binary; one module per area.
mod command;
mod demonstration;
mod errors;
mod large_vocabulary;
mod ops;
mod parity;
mod prompt;
mod recipes;
mod resume;
mod rollout;
mod row_invariance;
mod sandbox;
mod tasks;
