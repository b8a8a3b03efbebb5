//! Where a picture of a message comes from: a file, a data URL or memory, with the size that its message asks for.

use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::data_url;
use super::super::image::{decode_bytes, decode_file, stored_size};
use super::super::image_problem::ImageError;
use super::super::size::PictureSize;
use crate::files::open::open_regular;
use crate::files::{is_elsewhere, local_path};

/// Where a picture comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageSource {
    /// A file; a relative path starts at the folder that the reader names.
    Path(PathBuf),
    /// A picture within a URL: `data:image/png;base64,...`
    DataUrl(String),
    /// A picture that is decoded already.
    Memory(Arc<RgbImage>),
    /// Any of these, with the size that its message asks for.
    Sized(Box<ImageSource>, PictureSize),
}

impl ImageSource {
    /// Reads a path, a `file:` URL or a data URL.
    ///
    /// # Errors
    /// For addresses on the network: nothing is downloaded.
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_elsewhere(text) {
            return Err(format!("image {text:?} is on the network and is not fetched; download it and give its path"));
        }
        Ok(match data_url::is_data_url(text) {
            true => ImageSource::DataUrl(text.to_owned()),
            false => ImageSource::Path(local_path(text)),
        })
    }

    /// The source with the size that its message asks for, if it does.
    pub fn sized(self, size: Option<PictureSize>) -> Self {
        match size {
            Some(size) => ImageSource::Sized(Box::new(self), size),
            None => self,
        }
    }

    /// The size that its message asks for.
    pub fn size(&self) -> Option<PictureSize> {
        match self {
            ImageSource::Sized(_, size) => Some(*size),
            ImageSource::Path(_) | ImageSource::DataUrl(_) | ImageSource::Memory(_) => None,
        }
    }

    /// The source without the size that its message asks for.
    pub fn original(&self) -> &ImageSource {
        match self {
            ImageSource::Sized(source, _) => source.original(),
            ImageSource::Path(_) | ImageSource::DataUrl(_) | ImageSource::Memory(_) => self,
        }
    }

    /// Decodes the picture as it is stored; relative paths start at `folder`.
    ///
    /// # Errors
    /// When the file or the data is missing, damaged or of an unusable size.
    pub fn load(&self, folder: &Path) -> Result<Arc<RgbImage>, ImageError> {
        match self {
            ImageSource::Path(path) => decode_file(&folder.join(path)).map(Arc::new),
            ImageSource::DataUrl(url) => decode_bytes(&data_of(url)?, &shorten(url)).map(Arc::new),
            ImageSource::Memory(pixels) => Ok(Arc::clone(pixels)),
            ImageSource::Sized(source, _) => source.load(folder),
        }
    }

    /// Width and height as stored, if the header says them; no pixel is decoded. Relative paths start at `folder`.
    pub fn stored_size(&self, folder: &Path) -> Option<(u32, u32)> {
        match self {
            ImageSource::Path(path) => stored_size(BufReader::new(open_regular(&folder.join(path)).ok()?)),
            ImageSource::DataUrl(url) => stored_size(Cursor::new(data_of(url).ok()?)),
            ImageSource::Memory(pixels) => Some(pixels.dimensions()),
            ImageSource::Sized(source, _) => source.stored_size(folder),
        }
    }
}

impl<'de> Deserialize<'de> for ImageSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_source(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The size that a part, or the object within it, asks for.
pub(super) fn picture_size(part: &Value) -> Result<Option<PictureSize>, String> {
    PictureSize::of_part(part).map_err(|error| format!("content part {}: {error}", shorten(&part.to_string())))
}

/// A path or URL; or an object that has it under `url` (OpenAI), `path` or `image` (qwen-vl-utils), and may say a size.
fn read_source(source: &Value) -> Result<ImageSource, String> {
    Ok(read_address(source)?.sized(picture_size(source)?))
}

/// The same without a size.
pub(super) fn read_address(source: &Value) -> Result<ImageSource, String> {
    let text = source.as_str().or_else(|| ["url", "path", "image"].iter().find_map(|key| source[key].as_str()));
    let wrong = || format!("an image must be a path or a data URL, not {}", shorten(&source.to_string()));
    ImageSource::parse(text.ok_or_else(wrong)?)
}

/// The bytes that a data URL holds.
fn data_of(url: &str) -> Result<Vec<u8>, ImageError> {
    data_url::decode(url).map_err(|reason| ImageError::unreadable(&shorten(url), &reason))
}

/// The first characters of a long text, for messages.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
