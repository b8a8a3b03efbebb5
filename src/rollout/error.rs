//! Why a rollout brings nothing.

use thiserror::Error;

use super::environment::EnvironmentError;
use super::generator::GeneratorError;

/// Why nothing came out. What goes wrong in one sequence is not here but in its [`End`](super::trajectory::End).
#[derive(Debug, Error)]
pub enum RolloutError {
    /// The generator failed.
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    /// Not even one group fits.
    #[error(
        "a group of {group_size} sequences of up to {tokens} tokens after a prompt of {prompt} does not fit in the engine; lower the \
         group size, max_total_tokens or max_pixels, or give the engine more pages"
    )]
    NoRoom {
        /// Sequences in the group.
        group_size: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens after it.
        tokens: usize,
    },
    /// An observation cannot be written.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A worker thread panicked: a fault in an environment or a tool.
    #[error("a worker thread of the rollout panicked: {0}")]
    Worker(String),
}
