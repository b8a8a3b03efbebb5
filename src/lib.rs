//! thyme-engine trains and runs vision-language models that think with images, in one process on one copy of the weights.
//!
//! The layers, top to bottom; a line imports only lines below it, and leaves from anywhere (`tests/it/tidy.rs` checks it):
//!
//! ```text
//! cli
//! serve   train                an HTTP server; SFT and GRPO loops, the learner
//! eval
//! recipe                       typed TOML -> Plan
//! rollout                      environments, tools, rewards
//! engine   checkpoint          scheduler, pages, sampling; files on disk
//! model                        forward and backward, written once
//! reference   cpu   cuda       implementations of the ops; nothing but `cli/device.rs` names one
//! ops                          the contract of every op
//!
//! leaves: prompt  sandbox  telemetry  tasks
//! files                        addresses and encodings, which leaves read too
//! hub                          the keys of a checkpoint's files
//! isolated                     children for work that may end a process
//! ```

pub mod checkpoint;
pub mod cli;
pub mod cpu;
pub mod cuda;
pub mod engine;
pub mod eval;
pub mod files;
pub mod hub;
pub mod isolated;
pub mod model;
pub mod ops;
pub mod prompt;
pub mod recipe;
pub mod reference;
pub mod rollout;
pub mod sandbox;
pub mod serve;
pub mod tasks;
pub mod telemetry;
pub mod train;
