//! What can be wrong with messages or with their template.

use std::path::PathBuf;

use thiserror::Error;

use crate::isolated::IsolatedError;

/// Messages that cannot be read or rendered.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The checkpoint has no template.
    #[error(
        "no chat template in {}: looked at chat_template.jinja, chat_template.json, processor_config.json and tokenizer_config.json; \
         copy one from the released checkpoint, or give a rendered prompt instead of messages", folder.display()
    )]
    NoTemplate {
        /// The checkpoint folder.
        folder: PathBuf,
    },
    /// The template does not compile or stopped with an error.
    #[error("chat template: {0}")]
    Template(String),
    /// There is no process that could render the template.
    #[error(
        "chat template: a process for it cannot be used: {0}; look at the limits of processes and memory of this machine"
    )]
    NoProcess(String),
    /// Marks and images differ in number.
    #[error("the messages have {marks} <image> marks but {images} images are given; give one image for each mark")]
    ImageCount {
        /// `<image>` marks in all messages.
        marks: usize,
        /// Images given with the messages.
        images: usize,
    },
}

impl From<IsolatedError> for ChatError {
    fn from(error: IsolatedError) -> ChatError {
        match error {
            IsolatedError::Unusable(reason) => ChatError::NoProcess(reason),
            error => ChatError::Template(error.to_string()),
        }
    }
}
