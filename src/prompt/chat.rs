//! Conversations: messages of text and pictures, and the prompt text that the checkpoint's own chat template makes of them.

mod error;
mod image_source;
mod message;
mod template;

pub use error::ChatError;
pub use image_source::ImageSource;
pub use message::{IMAGE_MARK, Message, Part, place_images};
pub use template::{ChatTemplate, OWN_VARIABLES, RenderOptions, TemplateWork};
