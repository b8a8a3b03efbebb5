//! thyme-engine trains and runs vision-language models that think with images, in one process on one copy of the weights.
//!
//! The program `thyme-engine` is what most users want; this is the library below it.
//!
//! # Generate from a checkpoint
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use thyme_engine::checkpoint::Checkpoint;
//! use thyme_engine::cpu::Cpu;
//! use thyme_engine::engine::request::{GenerateRequest, Sampling, Stops};
//! use thyme_engine::engine::Engine;
//! use thyme_engine::engine::sizing::{EngineSize, PageDemand};
//! use thyme_engine::prompt::Message;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = Checkpoint::open("recipes/tiny-sft")?;
//! let model = checkpoint.model(Arc::new(Cpu::new()));
//! let weights = checkpoint.weights(&model)?;
//! let processor = Arc::new(checkpoint.processor(None)?);
//!
//! let question = [Message::text("user", "What digit is on the red plate?")];
//! let prompt = processor.encode_messages(&question, Path::new(""), true)?;
//! let demand = PageDemand::of_sequences(1, prompt.token_ids.len() + 32);
//! let mut engine = Engine::new(model, processor.clone(), EngineSize::new(1, demand).limits());
//! engine.open(&GenerateRequest {
//!     token_ids: prompt.token_ids,
//!     images: prompt.images,
//!     sequences: vec![0],
//!     sampling: Sampling { temperature: 0.0, ..Sampling::default() },
//!     stops: Stops {
//!         token_ids: vec![processor.special_ids().im_end],
//!         turn_tokens: 32,
//!         total_tokens: 32,
//!         ..Stops::default()
//!     },
//!     ..GenerateRequest::default()
//! })?;
//!
//! let (mut answer, mut has_stopped) = (Vec::new(), false);
//! while !has_stopped {
//!     for event in engine.step(&weights)? {
//!         answer.extend(event.token.map(|token| token.id));
//!         has_stopped |= event.stopped.is_some();
//!     }
//! }
//! println!("{}", processor.tokenizer().decode(&answer, true));
//! # assert!(!answer.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! The weights are borrowed for each step, so they may be trained between two. [`engine`] has the rest of it.
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | write an environment, a tool, a reward | [`rollout`] |
//! | train from a recipe | [`recipe`], [`train`] |
//! | embed the HTTP server | [`serve`] |
//! | run model-written code behind walls | [`sandbox`] |
//! | read and write Hugging Face folders | [`checkpoint`] |
//! | add an op or a backend | [`ops`], [`mod@reference`], [`cpu`], [`cuda`] |
//! | hold a device against the definition | [`device_check`] |
//!
//! [`cli`], [`files`], [`hub`] and [`isolated`] serve the program itself; their interfaces change without notice.
//!
//! # Layers
//!
//! Top to bottom; a line imports only lines below it, and leaves from anywhere (`tests/it/tidy.rs` checks it):
//!
//! ```text
//! cli
//! device_check                 a device proves itself against the definition
//! serve   train                an HTTP server; SFT, DPO and GRPO loops, the learner
//! eval
//! recipe                       typed TOML -> Plan
//! rollout                      environments, tools, rewards
//! engine   checkpoint          scheduler, pages, sampling; files on disk
//! model                        forward and backward, written once
//! reference   cpu   cuda       implementations of the ops; nothing but `cli/device.rs` names one
//! ops                          the contract of every op
//! image_ops                    operations on pictures, with Pillow's results
//!
//! leaves: prompt  sandbox  telemetry  tasks  network
//! files                        addresses and encodings, which leaves read too
//! hub                          the keys of a checkpoint's files
//! isolated                     children for work that may end a process
//! ```

pub mod cli;

pub mod device_check;

pub mod serve;
pub mod train;

pub mod eval;
pub mod recipe;
pub mod rollout;

pub mod checkpoint;
pub mod engine;
pub mod model;

pub mod cpu;
pub mod cuda;
pub mod reference;

pub mod ops;

pub mod image_ops;

pub mod network;
pub mod prompt;
pub mod sandbox;
pub mod tasks;
pub mod telemetry;

pub mod files;
pub mod hub;
pub mod isolated;
