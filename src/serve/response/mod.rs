//! From the engine's tokens to answers: [`generation`] gathers the events of a request, [`choice`] makes text and calls of them, [`writer`] writes
//! the answers, whole or in pieces.

pub mod choice;
pub mod generation;
pub mod logprobs;
pub mod sse;
pub mod tool_calls;
pub mod wire;
pub mod writer;
