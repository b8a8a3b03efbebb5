//! Messages of text and pictures, read from OpenAI-style JSON or from Thyme's form with `<image>` marks.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::error::ChatError;
use super::image_source::{ImageSource, picture_size, read_address, shorten};

/// Where an image stands in the string contents of Thyme's data.
pub const IMAGE_MARK: &str = "<image>";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text and images in order.
    pub content: Vec<Part>,
    /// The message's other keys (`tool_calls`, `name`, ...), handed to the template as they are.
    pub other: Map<String, Value>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text for the chat template.
    Text(String),
    /// A picture at this place of the message.
    Image(ImageSource),
}

impl Message {
    /// A message of one text.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Message::new(role, vec![Part::Text(text.into())])
    }

    /// A message of several parts.
    pub fn new(role: &str, content: Vec<Part>) -> Self {
        Message { role: role.to_owned(), content, other: Map::new() }
    }

    /// Its texts in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image(_) => None,
        })
    }

    /// The images of the message in order.
    pub fn images(&self) -> impl Iterator<Item = &ImageSource> {
        self.content.iter().filter_map(|part| match part {
            Part::Image(source) => Some(source),
            Part::Text(_) => None,
        })
    }

    /// The message as a template sees it. A lone text is a string, as most templates expect.
    pub(super) fn to_template(&self) -> Value {
        let content = match self.content.as_slice() {
            [] => json!(""),
            [Part::Text(text)] => json!(text),
            parts => parts.iter().map(Part::to_template).collect(),
        };
        let mut message = Map::new();
        message.insert("role".to_owned(), json!(self.role));
        message.insert("content".to_owned(), content);
        message.extend(self.other.clone());
        Value::Object(message)
    }
}

impl Part {
    fn to_template(&self) -> Value {
        match self {
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Image(_) => json!({"type": "image"}),
        }
    }
}

/// Puts the images of a Thyme row where its messages say `<image>`, in order.
///
/// # Errors
/// When marks and images differ in number.
pub fn place_images(messages: &mut [Message], images: Vec<ImageSource>) -> Result<(), ChatError> {
    let marks_in = |part: &Part| match part {
        Part::Text(text) => text.matches(IMAGE_MARK).count(),
        Part::Image(_) => 0,
    };
    let marks = messages.iter().flat_map(|message| &message.content).map(marks_in).sum();
    if marks != images.len() {
        return Err(ChatError::ImageCount { marks, images: images.len() });
    }
    let mut images = images.into_iter();
    for message in messages {
        let parts = std::mem::take(&mut message.content);
        message.content = parts.into_iter().flat_map(|part| split_marks(part, &mut images)).collect();
    }
    Ok(())
}

/// Cuts a text at its marks and takes an image for each.
fn split_marks(part: Part, images: &mut impl Iterator<Item = ImageSource>) -> Vec<Part> {
    let Part::Text(text) = part else { return vec![part] };
    if !text.contains(IMAGE_MARK) {
        return vec![Part::Text(text)];
    }
    let mut parts = Vec::new();
    for (index, piece) in text.split(IMAGE_MARK).enumerate() {
        if index > 0 {
            parts.extend(images.next().map(Part::Image));
        }
        if !piece.is_empty() {
            parts.push(Part::Text(piece.to_owned()));
        }
    }
    parts
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            role: String,
            #[serde(default)]
            content: Option<Content>,
            #[serde(flatten)]
            other: Map<String, Value>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let content = match raw.content {
            None => Vec::new(),
            Some(Content::Text(text)) => vec![Part::Text(text)],
            Some(Content::Parts(parts)) => parts,
        };
        Ok(Message { role: raw.role, content, other: raw.other })
    }
}

/// A content is a string or a list of parts.
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Content::Text(text)),
            Value::Array(parts) => {
                parts.iter().map(read_part).collect::<Result<_, _>>().map(Content::Parts).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!("content must be a string or a list of parts, not {other}"))),
        }
    }
}

fn read_part(part: &Value) -> Result<Part, String> {
    let kind = match part {
        Value::String(text) => return Ok(Part::Text(text.clone())),
        part => part["type"].as_str().ok_or_else(|| format!("content part {part} has no \"type\""))?,
    };
    let missing = || format!("content part {} has no {kind:?}", shorten(&part.to_string()));
    match kind {
        "text" => Ok(Part::Text(part["text"].as_str().ok_or_else(missing)?.to_owned())),
        "image" | "image_url" => {
            let source = read_address(part.get(kind).ok_or_else(missing)?)?;
            Ok(Part::Image(source.sized(picture_size(part)?)))
        }
        other => Err(format!("content part of type {other:?} is not supported; known types: text, image, image_url")),
    }
}
