//! What can be wrong with a prompt, or with the files of a checkpoint that prompts are made by.

use std::path::PathBuf;

use thiserror::Error;

use super::super::chat::ChatError;
use super::super::image_problem::{ImageError, ImageProblem};
use super::super::tokenizer::TokenizerError;

/// A prompt that cannot be made.
#[derive(Debug, Error)]
pub enum PromptError {
    /// A file of the checkpoint could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// A file of the checkpoint folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the checkpoint does not say what it should.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// A file of the checkpoint folder.
        path: PathBuf,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// The tokenizer cannot be read, or a text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The messages or their template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A picture of a message.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A picture given as pixels.
    #[error("the picture {0}")]
    Picture(#[from] ImageProblem),
    /// The text has another number of placeholders than there are images.
    #[error("the prompt has {pads} <|image_pad|> but {images} images are given; give one image for each <|image_pad|>")]
    ImageCount {
        /// Placeholders in the text.
        pads: usize,
        /// Images given with the text.
        images: usize,
    },
    /// Ids that are already expanded do not fit the images.
    #[error(
        "the token ids have {pads} image placeholders but the {images} images need {expected}; \
         expand each <|image_pad|> to grid_h * grid_w / merge_size^2 of them at this max_pixels"
    )]
    PadCount {
        /// Placeholders in the ids.
        pads: usize,
        /// Images given with the ids.
        images: usize,
        /// Placeholders that they need.
        expected: usize,
    },
}
