//! From a request's fields to what its prompts are made of, the shape of every value checked. Pictures are named here, and not looked at.

use serde_json::{Map, Value};

use super::fields::whole_value;
use super::images::is_remote;
use super::settings::check;
use super::wire::{Features, Request};
use crate::files::json::shorten;
use crate::prompt::{ImageSource, Message, Part, PictureSize, PixelLimits};
use crate::serve::error::ApiError;

/// Messages of a conversation and parts of them, and tools, at most.
const MESSAGES_MAX: usize = 16_384;
const TOOLS_MAX: usize = 1024;
/// Bytes of more variables for the template.
const VARIABLES_BYTES_MAX: usize = 1 << 20;

/// Pictures in one prompt at most, where the operator says nothing.
pub const IMAGES_MAX: usize = 64;

/// What the operator lets prompts be made of.
#[derive(Clone, Copy, Debug)]
pub struct InputLimits {
    /// Pictures in one prompt at most.
    pub images_max: usize,
    /// Requests may bring templates of their own.
    pub trusts_templates: bool,
}

impl InputLimits {
    fn check_image_count(&self, images: usize) -> Result<(), ApiError> {
        if images > self.images_max {
            let message = format!(
                "have {images} images, and this server takes {} in a prompt; send fewer, or start it with --limit-mm-per-prompt",
                self.images_max
            );
            return Err(ApiError::field("messages", message));
        }
        Ok(())
    }
}

/// What the prompts of a request are made of.
#[derive(Clone, Debug)]
pub enum PromptInput {
    /// A conversation, which a chat template makes one prompt of.
    Conversation(Box<Conversation>),
    /// Texts.
    Texts(Vec<String>),
    /// Lists of token ids.
    TokenIds(Vec<Vec<u32>>),
    /// Token ids, and the pictures that their placeholders stand for.
    Tokens {
        /// The ids.
        token_ids: Vec<u32>,
        /// Their pictures in order.
        pictures: Vec<Picture>,
        /// How all of them are resized.
        pixel_limits: PixelLimits,
    },
}

/// A conversation and how it becomes text.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The messages. The sources of their image parts are empty: `pictures` has them.
    pub messages: Vec<Message>,
    /// The pictures of the messages, in order.
    pub pictures: Vec<Picture>,
    /// How all of them are resized.
    pub pixel_limits: PixelLimits,
    /// The prompt goes on with the last message.
    pub continue_final_message: bool,
    /// The prompt opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// What the model may call, for the template.
    pub tools: Option<Vec<Value>>,
    /// In place of the server's own.
    pub chat_template: Option<String>,
    /// More variables of the template.
    pub variables: Map<String, Value>,
}

/// A picture that a request names.
#[derive(Clone, Debug)]
pub struct Picture {
    /// A data URL, a URL on the network, or a file.
    pub address: String,
    /// The field that names it.
    pub param: String,
    /// The size that is asked for it.
    pub size: Option<PictureSize>,
}

impl PromptInput {
    /// The conversation of a chat.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn conversation(request: Request, limits: &InputLimits) -> Result<PromptInput, ApiError> {
        Ok(PromptInput::Conversation(Box::new(Conversation::read(request, limits)?)))
    }

    /// The prompts of a completion.
    ///
    /// # Errors
    /// When they are of another shape.
    pub fn completion(prompt: Option<Value>) -> Result<PromptInput, ApiError> {
        let wrong = || {
            ApiError::field(
                "prompt",
                "must be a string, a list of strings, a list of token ids, or a list of such lists",
            )
        };
        match prompt {
            Some(Value::String(text)) => Ok(PromptInput::Texts(vec![text])),
            Some(Value::Array(list)) if list.is_empty() => Err(wrong()),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                let text = |value| if let Value::String(text) = value { text } else { String::new() };
                Ok(PromptInput::Texts(list.into_iter().map(text).collect()))
            }
            Some(Value::Array(list)) if list.iter().all(Value::is_array) => {
                let lists = list.iter().filter_map(Value::as_array).map(|ids| read_ids(ids));
                Ok(PromptInput::TokenIds(lists.collect::<Result<_, ApiError>>()?))
            }
            Some(Value::Array(list)) if list.iter().all(Value::is_number) => {
                Ok(PromptInput::TokenIds(vec![read_ids(&list)?]))
            }
            _ => Err(wrong()),
        }
    }

    /// Token ids with their pictures.
    ///
    /// # Errors
    /// When there are too many pictures, or a size of one cannot be used.
    pub fn tokens(token_ids: Vec<u32>, features: Features, limits: &InputLimits) -> Result<PromptInput, ApiError> {
        let Features { images, image_sizes: sizes, mm_processor_kwargs, .. } = features;
        limits.check_image_count(images.len())?;
        if ![0, images.len()].contains(&sizes.len()) {
            let message = format!("have {} image_sizes for {} images; give one for each", sizes.len(), images.len());
            return Err(ApiError::field("features", message));
        }
        let sizes = sizes.into_iter().chain(std::iter::repeat(Value::Null));
        let picture = |(address, size): (String, Value)| {
            let size = PictureSize::of_part(&size).map_err(|error| ApiError::field("features", error))?;
            Ok(Picture { address, param: "features".to_owned(), size })
        };
        let pictures = images.into_iter().zip(sizes).map(picture).collect::<Result<_, ApiError>>()?;
        Ok(PromptInput::Tokens { token_ids, pictures, pixel_limits: mm_processor_kwargs.unwrap_or_default() })
    }

    /// How many prompts there are.
    pub fn count(&self) -> usize {
        match self {
            PromptInput::Conversation(_) | PromptInput::Tokens { .. } => 1,
            PromptInput::Texts(texts) => texts.len(),
            PromptInput::TokenIds(lists) => lists.len(),
        }
    }

    /// The pictures of all of them.
    pub fn pictures(&self) -> &[Picture] {
        match self {
            PromptInput::Conversation(conversation) => &conversation.pictures,
            PromptInput::Tokens { pictures, .. } => pictures,
            PromptInput::Texts(_) | PromptInput::TokenIds(_) => &[],
        }
    }

    /// Those that lie on the network.
    pub fn remote_pictures(&mut self) -> impl Iterator<Item = &mut Picture> {
        let pictures = match self {
            PromptInput::Conversation(conversation) => conversation.pictures.as_mut_slice(),
            PromptInput::Tokens { pictures, .. } => pictures,
            PromptInput::Texts(_) | PromptInput::TokenIds(_) => &mut [],
        };
        pictures.iter_mut().filter(|picture| is_remote(&picture.address))
    }
}

impl Conversation {
    /// The conversation of a chat.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn read(request: Request, limits: &InputLimits) -> Result<Conversation, ApiError> {
        let continue_final_message = request.continue_final_message.unwrap_or(false);
        let add_generation_prompt = request.add_generation_prompt.unwrap_or(!continue_final_message);
        let values = request.messages.unwrap_or_default();
        if values.is_empty() {
            return Err(ApiError::field("messages", "is missing or empty; give at least one message"));
        }
        let parts: usize = values.iter().map(|value| 1 + value["content"].as_array().map_or(0, Vec::len)).sum();
        check(
            "messages",
            format!("{parts} messages and parts of them"),
            parts <= MESSAGES_MAX,
            &format!("at most {MESSAGES_MAX}"),
        )?;
        let mut pictures = Vec::new();
        let read = |(number, value)| read_message(value, number, &mut pictures);
        let messages = values.into_iter().enumerate().map(read).collect::<Result<Vec<_>, ApiError>>()?;
        limits.check_image_count(pictures.len())?;
        if continue_final_message && add_generation_prompt {
            let message = "and add_generation_prompt exclude each other; send add_generation_prompt = false";
            return Err(ApiError::field("continue_final_message", message));
        }
        let tools = request.tools.filter(|tools| !tools.is_empty());
        let count = tools.as_ref().map_or(0, Vec::len);
        check("tools", format!("a list of {count}"), count <= TOOLS_MAX, &format!("of at most {TOOLS_MAX}"))?;
        let variables = request.chat_template_kwargs.unwrap_or_default();
        let bytes = serde_json::to_vec(&variables).map_or(0, |json| json.len());
        check(
            "chat_template_kwargs",
            format!("{bytes} bytes long"),
            bytes <= VARIABLES_BYTES_MAX,
            &format!("at most {VARIABLES_BYTES_MAX}"),
        )?;
        if request.chat_template.is_some() && !limits.trusts_templates {
            let message =
                "is not taken from a request; start the server with --chat-template or --trust-request-chat-template";
            return Err(ApiError::field("chat_template", message));
        }
        Ok(Conversation {
            messages,
            pictures,
            pixel_limits: request.mm_processor_kwargs.unwrap_or_default(),
            continue_final_message,
            add_generation_prompt,
            tools,
            chat_template: request.chat_template,
            variables,
        })
    }
}

fn read_ids(values: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |value: &Value| {
        let id = whole_value(value).and_then(|id| u32::try_from(id).ok());
        let wrong = || format!("has {}; a token id is a whole number from 0 on", shorten(&value.to_string()));
        id.ok_or_else(|| ApiError::field("prompt", wrong()))
    };
    values.iter().map(id).collect()
}

/// A message of the prompt's own kind; the pictures that it names are added to `pictures`.
fn read_message(value: Value, number: usize, pictures: &mut Vec<Picture>) -> Result<Message, ApiError> {
    let param = format!("messages[{number}]");
    let Value::Object(mut other) = value else {
        return Err(ApiError::field(&param, "must be an object with role and content"));
    };
    let Some(Value::String(role)) = other.shift_remove("role") else {
        return Err(ApiError::field(&param, "has no role; give system, user, assistant or tool"));
    };
    let content = match other.shift_remove("content") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text)],
        Some(Value::Array(parts)) => {
            let part = |(place, part)| read_part(part, format!("{param}.content[{place}]"), pictures);
            parts.into_iter().enumerate().map(part).collect::<Result<_, ApiError>>()?
        }
        Some(_) => return Err(ApiError::field(&format!("{param}.content"), "must be a string or a list of parts")),
    };
    if let Some(calls) = other.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(open_arguments);
    }
    Ok(Message { role, content, other })
}

/// Templates expect a call's arguments as an object, clients send them as JSON text.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(Ok(opened)) = arguments.as_str().map(serde_json::from_str) {
        *arguments = opened;
    }
}

fn read_part(mut part: Value, param: String, pictures: &mut Vec<Picture>) -> Result<Part, ApiError> {
    if let Value::String(text) = part {
        return Ok(Part::Text(text));
    }
    if let Some(pointer) = image_pointer(&part) {
        let size = PictureSize::of_part(&part)
            .map_err(|error| ApiError::field(&format!("{param}.{}", error.key), error.problem))?;
        let address = take_text(part.pointer_mut(pointer)).unwrap_or_default();
        pictures.push(Picture { address, param, size });
        return Ok(Part::Image(ImageSource::DataUrl(String::new())));
    }
    let kind = take_text(part.get_mut("type"));
    let mut text = |key: &str| {
        let text = take_text(part.get_mut(key)).map(Part::Text);
        text.ok_or_else(|| ApiError::field(&param, format!("has no {key:?}")))
    };
    match kind.as_deref() {
        Some("text" | "input_text" | "output_text") => text("text"),
        Some("refusal") => text("refusal"),
        Some("image_url" | "image" | "input_image") => Err(ApiError::field(
            &param,
            "names no picture; give {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:...\"}}",
        )),
        Some(other) => {
            let other = shorten(other);
            Err(ApiError::field(&param, format!("is of type {other:?}; known types: text, image_url")))
        }
        None => Err(ApiError::field(&param, "has no type; known types: text, image_url")),
    }
}

/// The text of a value, moved out of it.
fn take_text(value: Option<&mut Value>) -> Option<String> {
    match value.map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Where in a part the address of a picture is: `image_url` with an object or a string, `image`, or `input_image`.
fn image_pointer(part: &Value) -> Option<&'static str> {
    let places: &[&str] = match part["type"].as_str()? {
        "image_url" | "input_image" => &["/image_url", "/image_url/url"],
        "image" => &["/image", "/image/url", "/image_url", "/image_url/url"],
        _ => return None,
    };
    places.iter().copied().find(|place| part.pointer(place).is_some_and(Value::is_string))
}
