//! From messages and pictures to what the model reads: token ids, patches, positions. A leaf: it knows
//! nothing of weights or devices.
//!
//! Equal to transformers' PIL processor, the resize bit-equal to Pillow. Odd and damaged files are taken as Pillow takes them, or refused by name;
//! PNG and GIF are read here for that (`png.rs`, `gif.rs`), other formats by the `image` crate. `size.rs` reads the size that a message asks for,
//! `pixel_limits.rs` the limits that a request does.

mod added_tokens;
mod byte_level;
pub mod chat;
pub mod data_url;
mod gif;
pub mod image;
mod image_problem;
mod image_settings;
mod jinja;
pub mod pixel_limits;
mod png;
pub mod positions;
mod processor;
mod resize;
mod simd;
pub mod size;
mod stream_decoder;
pub mod tokenizer;
mod tokenizer_bounds;

pub use chat::{
    ChatError, ChatTemplate, ImageSource, Message, OWN_VARIABLES, Part, RenderOptions, TemplateWork, place_images,
};
pub use image::PreparedImage;
pub use image_problem::{ImageError, ImageProblem};
pub use image_settings::{ImageSettings, smart_resize};
pub use jinja::python_text;
pub use pixel_limits::PixelLimits;
pub use positions::{Grid, PositionCursor, PositionError, WindowOrder};
pub use processor::{IMAGE_MARKUP, Processor, Prompt, PromptError, SpecialIds, read_image_settings, warnings};
pub use resize::{ResizeFilter, resize, resize_bicubic, resize_part};
pub use size::{PictureSize, SizeError};
pub use stream_decoder::StreamDecoder;
pub use tokenizer::{Tokenizer, TokenizerError};
