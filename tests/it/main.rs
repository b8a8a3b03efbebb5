//! The one integration binary; one module per area.

mod cli;
mod command;
mod demonstration;
mod engine;
mod engine_speed;
mod errors;
mod hostile;
mod kv_cache;
mod large_vocabulary;
mod memory;
mod one_policy;
mod ops;
mod over_cpu;
mod pack;
mod parity;
mod prompt;
mod recipes;
mod resume;
mod rollout;
mod row_invariance;
mod sandbox;
mod simt;
mod small_policy;
mod tasks;
mod tidy;
mod trace;
