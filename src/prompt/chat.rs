//! Conversations: messages of text and pictures, read from OpenAI-style JSON or from Thyme's form with `<image>` marks, and
//! rendered to prompt text by the checkpoint's own chat template.

use std::borrow::Cow;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::image::RgbImage;
use minijinja::Environment;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::data_url;
use super::image::{decode_bytes, decode_file, stored_size};
use super::image_problem::ImageError;
use super::jinja;
use super::size::PictureSize;
use crate::files::open::open_regular;
use crate::files::{is_elsewhere, local_path};
use crate::isolated::{Isolated, IsolatedError};

/// Where an image stands in the string contents of Thyme's data.
pub const IMAGE_MARK: &str = "<image>";

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
    fn to_template(&self) -> Value {
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

impl<'de> Deserialize<'de> for ImageSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_source(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
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

fn picture_size(part: &Value) -> Result<Option<PictureSize>, String> {
    PictureSize::of_part(part).map_err(|error| format!("content part {}: {error}", shorten(&part.to_string())))
}

/// A path or URL; or an object that has it under `url` (OpenAI), `path` or `image` (qwen-vl-utils), and may say a size.
fn read_source(source: &Value) -> Result<ImageSource, String> {
    Ok(read_address(source)?.sized(picture_size(source)?))
}

fn read_address(source: &Value) -> Result<ImageSource, String> {
    let text = source.as_str().or_else(|| ["url", "path", "image"].iter().find_map(|key| source[key].as_str()));
    let wrong = || format!("an image must be a path or a data URL, not {}", shorten(&source.to_string()));
    ImageSource::parse(text.ok_or_else(wrong)?)
}

/// The bytes that a data URL holds.
fn data_of(url: &str) -> Result<Vec<u8>, ImageError> {
    data_url::decode(url).map_err(|reason| ImageError::unreadable(&shorten(url), &reason))
}

/// The first characters of a long text, for messages.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a template is told besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Open an assistant turn at the end.
    pub add_generation_prompt: bool,
    /// Tool schemas, or none.
    pub tools: Option<Value>,
    /// Other variables of the template, such as `add_vision_id`.
    pub variables: Map<String, Value>,
}

/// A chat template, with the special tokens that it may name.
pub struct ChatTemplate {
    source: String,
    special_tokens: Map<String, Value>,
    renderer: Renderer,
}

/// Who renders a template.
enum Renderer {
    /// This process, for those who trust the template: it may take any memory.
    Own(Box<Environment<'static>>),
    /// A child, which is stopped where the template takes more than it may.
    Isolated(Arc<Isolated>),
}

/// What a child renders: without variables it only compiles the template.
#[derive(Debug, Serialize, Deserialize)]
struct Rendering<'a> {
    source: Cow<'a, str>,
    variables: Option<Cow<'a, Map<String, Value>>>,
}

impl ChatTemplate {
    /// Compiles a template that is rendered in this process. `special_tokens` are variables such as `bos_token`.
    ///
    /// # Errors
    /// When the source is not valid Jinja, or too large.
    pub fn compile(source: String, special_tokens: Map<String, Value>) -> Result<Self, ChatError> {
        let environment = jinja::compile(&source).map_err(ChatError::Template)?;
        Ok(ChatTemplate { source, special_tokens, renderer: Renderer::Own(Box::new(environment)) })
    }

    /// Compiles a template that is rendered by a child of [`TemplateWork`].
    ///
    /// # Errors
    /// When the source is not valid Jinja, too large, or ends the child.
    pub fn isolated(
        source: String,
        special_tokens: Map<String, Value>,
        renderer: &Arc<Isolated>,
    ) -> Result<Self, ChatError> {
        jinja::check_size(&source).map_err(ChatError::Template)?;
        let job = Rendering { source: Cow::Borrowed(&source), variables: None };
        renderer.call(&job)?;
        Ok(ChatTemplate { source, special_tokens, renderer: Renderer::Isolated(renderer.clone()) })
    }

    /// The prompt text of a conversation; each image stands as the template writes it (`<|image_pad|>` for Qwen).
    ///
    /// # Errors
    /// When the template refuses the messages, or takes more steps, text, time or memory than it may.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, ChatError> {
        let mut variables = self.special_tokens.clone();
        variables.extend(options.variables.clone());
        variables.insert("messages".to_owned(), messages.iter().map(Message::to_template).collect());
        variables.insert("tools".to_owned(), options.tools.clone().unwrap_or(Value::Null));
        variables.insert("documents".to_owned(), Value::Null);
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        match &self.renderer {
            Renderer::Own(environment) => jinja::render(environment, &variables).map_err(ChatError::Template),
            Renderer::Isolated(child) => {
                let job = Rendering { source: Cow::Borrowed(&self.source), variables: Some(Cow::Owned(variables)) };
                let text = child.call(&job)?;
                Ok(text.as_str().unwrap_or_default().to_owned())
            }
        }
    }
}

/// The child's side of [`ChatTemplate::isolated`]: it keeps the template that it compiled last.
#[derive(Default)]
pub struct TemplateWork {
    compiled: Mutex<Option<(String, Environment<'static>)>>,
}

impl TemplateWork {
    /// Does a job.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn render(&self, job: Value) -> Result<Value, String> {
        let job: Rendering<'_> = serde_json::from_value(job).map_err(|error| error.to_string())?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &mut *compiled {
            Some((source, environment)) if *source == job.source => environment,
            other => &mut other.insert((job.source.to_string(), jinja::compile(&job.source)?)).1,
        };
        match job.variables {
            Some(variables) => jinja::render(environment, &variables).map(Value::String),
            None => Ok(Value::Null),
        }
    }
}
