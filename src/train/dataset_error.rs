//! Why a data set has no example of a number.

use std::path::PathBuf;

use crate::prompt::PromptError;
use crate::tasks::jsonl::DataError;

/// Why there is no example.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A task's prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An example whose pictures cannot be read, or that cannot be tokenised.
    #[error("{example}: {source}; mend it or take it out")]
    Example {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
        /// What is wrong.
        source: PromptError,
    },
    /// An example that the model has no room for.
    #[error(
        "{example}: it has {tokens} tokens, the model takes {limit} (max_position_embeddings): shorten it, or lower `model.max_pixels`"
    )]
    TooLong {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Positions that the model has.
        limit: usize,
    },
    /// An example with more tokens than the recipe takes.
    #[error(
        "{example}: it has {tokens} tokens, `sft.max_length` is {limit}: raise it, shorten the example, lower `model.max_pixels`, or set \
         `sft.max_length_action` to \"truncate\""
    )]
    MaxLength {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Tokens that the recipe takes.
        limit: usize,
    },
    /// An example of which nothing that is learned is left.
    #[error(
        "{example}: it has {tokens} tokens, and the first {limit}, `sft.max_length`, hold none that is learned: raise it, shorten the \
         example, or lower `model.max_pixels`"
    )]
    NothingLearned {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Tokens that the recipe takes.
        limit: usize,
    },
    /// A preference between two answers that are the same.
    #[error("{example}: both answers are the same to the model; mend it or take it out")]
    SameAnswers {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
    },
    /// A script that the recipe's environment does not take.
    #[error(
        "{example}: the environment {environment:?} does not take its script ({problem}); name in `[environment]` the one that \
         the variant is made for, with limits of tokens that are large enough"
    )]
    Script {
        /// Its name, as [`Dataset::name_of`](super::dataset::Dataset::name_of) gives it.
        example: String,
        /// The environment's name.
        environment: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// A row whose difficulty cannot be read.
    #[error("{path}:{line}: {problem}")]
    PassRate {
        /// The data file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with its column, and the remedy.
        problem: String,
    },
    /// A file of the other method's form.
    #[error("{path}:{line}: the row is not {expected}; `method` in the recipe says how the file is used")]
    Form {
        /// The data file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What the method needs.
        expected: &'static str,
    },
}
