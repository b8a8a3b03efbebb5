//! From messages and pictures to what the model reads: token ids, patches, positions. A leaf: it knows
//! nothing of weights or devices.
//!
//! Equal to transformers' PIL processor, the resize bit-equal to Pillow. Odd and damaged files are taken as Pillow takes them, or refused by name;
//! PNG and GIF are read here for that (`png.rs`, `gif.rs`), other formats by the `image` crate. `size.rs` reads the size that a request or a
//! message asks for.

mod added_tokens;
pub mod chat;
pub mod data_url;
mod gif;
pub mod image;
mod jinja;
mod png;
pub mod positions;
mod processor;
mod resize;
mod simd;
pub mod size;
pub mod tokenizer;
mod tokenizer_bounds;

pub use chat::{ChatError, ChatTemplate, ImageSource, Message, Part, RenderOptions, TemplateWork, place_images};
pub use image::{ImageError, ImageProblem, ImageSettings, PreparedImage, smart_resize};
pub use positions::{Grid, PositionCursor, PositionError, WindowOrder};
pub use processor::{IMAGE_MARKUP, Processor, Prompt, PromptError, SpecialIds, read_image_settings, warnings};
pub use resize::resize_bicubic;
pub use size::{PictureSize, PixelLimits, SizeError};
pub use tokenizer::{StreamDecoder, Tokenizer, TokenizerError};
