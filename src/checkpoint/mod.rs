//! Checkpoint folders in the Hugging Face layout: found, read into weights, written whole or not at all.
//!
//! `safetensors` are read a tensor at a time ([`files`]), in pieces ([`stored_tensor`]): single or sharded; bf16, f16, f32; both key layouts. They
//! are written in the released layout under a temporary name, renamed when whole. [`Checkpoint::open`] is the way in: it reads a folder's config, warns
//! of keys without effect and finds out whether the head is tied; a tokenizer or picture settings that do not belong to the config are refused when
//! they are asked for. [`contents`] says what a folder holds when it holds no weights that can be read, and the remedy; [`init`] makes random
//! weights on the model's device; [`resume`] is the optimizer's state.

mod open;
mod config;
pub mod contents;
mod error;
mod other_form;
pub mod files;
pub mod folder;
pub mod init;
mod processor;
pub mod resume;
pub mod stored_tensor;
mod tensor_file;
pub mod weights;

pub use error::{CheckpointError, ForeignTensor};
pub use open::Checkpoint;
pub use other_form::OtherForm;
