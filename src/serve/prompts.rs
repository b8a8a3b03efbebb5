//! From a request to what the model reads: conversations, texts and token ids, pictures loaded under the server's rules and all sizes
//! checked before anything large is made.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::whole_value;
use super::images::{ImagePolicy, is_remote};
use super::openai::Request;
use super::sampling::check;
use crate::files::json::shorten;
use crate::isolated::Isolated;
use crate::model::config::Config;
use crate::prompt::positions::{Grid, positions};
use crate::prompt::{
    ImageSettings, ImageSource, Message, Part, PictureSize, PixelLimits, PreparedImage, Processor, Prompt,
    RenderOptions,
};
use crate::rollout::environment::Task;

/// Pictures in one prompt at most, where the operator says nothing.
pub const IMAGES_MAX: usize = 64;

/// Messages of a conversation and parts of them, and tools, at most.
const MESSAGES_MAX: usize = 16_384;
const TOOLS_MAX: usize = 1024;
/// Bytes of more variables for the template.
const VARIABLES_BYTES_MAX: usize = 1 << 20;

/// Follows the text that an unfinished last message goes on from.
const CONTINUE_MARK: &str = "\u{1}thyme-continue\u{1}";

/// Makes prompts of requests.
pub struct Prompts {
    /// The checkpoint's prompt side.
    pub processor: Arc<Processor>,
    /// The model's shapes; its context is that of the server.
    pub config: Config,
    /// Which pictures may be used.
    pub images: ImagePolicy,
    /// Pictures in one prompt at most.
    pub images_max: usize,
    /// Requests may bring templates of their own.
    pub trusts_templates: bool,
    /// Children that render the templates that requests bring.
    pub renderer: Arc<Isolated>,
}

impl Prompts {
    /// The prompt of a conversation.
    pub fn chat(&self, request: &Request) -> Result<Prompt, ApiError> {
        let values = request.messages.as_deref().unwrap_or_default();
        let (sources, mut messages) = self.conversation(values)?;
        let text = self.render(&mut messages, request)?;
        self.check_room("messages", self.processor.tokenizer().tokens_min(text.len()))?;
        let images = self.prepare(&sources, request.mm_processor_kwargs)?;
        let token_ids = self.processor.encode_prompt(&text, &images).map_err(|e| ApiError::field("messages", e))?;
        self.checked("messages", Prompt { token_ids, images })
    }

    /// The task that a conversation is to an environment.
    pub fn task(&self, request: &Request) -> Result<Task, ApiError> {
        let (sources, messages) = self.conversation(request.messages.as_deref().unwrap_or_default())?;
        // Refused here as it is without an environment: before it is cut into tokens, and before a picture is decoded.
        let bytes = messages.iter().flat_map(Message::texts).map(str::len).sum();
        let (settings, mut tokens) = (self.processor.image_settings(), self.processor.tokenizer().tokens_min(bytes));
        self.check_room("messages", tokens)?;
        for source in &sources {
            if let Some(size) = source.stored_size(Path::new("")) {
                tokens +=
                    settings.tokens(size, source.size()).map_err(|problem| ApiError::field("messages", problem))?;
                self.check_room("messages", tokens)?;
            }
        }
        Ok(Task::of_conversation(messages))
    }

    /// The pictures of a conversation, and the conversation with them in place.
    fn conversation(&self, values: &[Value]) -> Result<(Vec<ImageSource>, Vec<Message>), ApiError> {
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
        self.check_image_count(pictures(values).count())?;
        let source =
            |picture: Picture<'_>| Ok(self.images.source(picture.address, &picture.param)?.sized(picture.size()?));
        let sources = pictures(values).map(source).collect::<Result<Vec<_>, ApiError>>()?;
        let messages = read_messages(values, &sources)?;
        Ok((sources, messages))
    }

    /// The prompts of a completion.
    pub fn completion(&self, request: &Request) -> Result<Vec<Prompt>, ApiError> {
        let wrong = || {
            ApiError::field(
                "prompt",
                "must be a string, a list of strings, a list of token ids, or a list of such lists",
            )
        };
        match &request.prompt {
            Some(Value::String(text)) => Ok(vec![self.text(text)?]),
            Some(Value::Array(list)) if list.is_empty() => Err(wrong()),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                list.iter().filter_map(Value::as_str).map(|text| self.text(text)).collect()
            }
            Some(Value::Array(list)) if list.iter().all(Value::is_array) => {
                list.iter().filter_map(Value::as_array).map(|ids| self.ids(ids)).collect()
            }
            Some(Value::Array(list)) if list.iter().all(Value::is_number) => Ok(vec![self.ids(list)?]),
            _ => Err(wrong()),
        }
    }

    /// The prompt of token ids, with the pictures that their placeholders stand for.
    pub fn tokens(
        &self,
        param: &str,
        token_ids: Vec<u32>,
        images: Vec<Arc<PreparedImage>>,
    ) -> Result<Prompt, ApiError> {
        self.checked(param, Prompt { token_ids, images })
    }

    /// Addresses of a conversation's pictures that go into `features`, and the sizes that are asked for them, if any are: they are loaded again
    /// from there.
    pub fn features(&self, request: &Request) -> Result<(Vec<String>, Vec<Value>), ApiError> {
        let values = request.messages.as_deref().unwrap_or_default();
        let size = |picture: Picture<'_>| Ok(json!(picture.size()?));
        let mut sizes = pictures(values).map(size).collect::<Result<Vec<_>, ApiError>>()?;
        if sizes.iter().all(Value::is_null) {
            sizes.clear();
        }
        Ok((pictures(values).map(|picture| picture.address.to_owned()).collect(), sizes))
    }

    /// Fetches the pictures at these URLs and puts them in their place, as data URLs; with each URL comes its field name.
    pub fn fetch<'a>(&self, addresses: impl Iterator<Item = (&'a mut String, String)>) -> Result<(), ApiError> {
        let addresses: Vec<_> = addresses.collect();
        self.check_image_count(addresses.len())?;
        let mut fetching = self.images.fetching();
        for (address, param) in addresses {
            *address = fetching.fetch(address).map_err(|reason| ApiError::field(&param, reason))?;
        }
        Ok(())
    }

    /// Loads and prepares pictures by their addresses and the sizes asked for them, of all or of none.
    pub fn load(
        &self,
        addresses: &[String],
        sizes: &[Value],
        limits: Option<PixelLimits>,
    ) -> Result<Vec<Arc<PreparedImage>>, ApiError> {
        self.check_image_count(addresses.len())?;
        if ![0, addresses.len()].contains(&sizes.len()) {
            let message = format!("have {} image_sizes for {} images; give one for each", sizes.len(), addresses.len());
            return Err(ApiError::field("features", message));
        }
        let sizes = sizes.iter().chain(std::iter::repeat(&Value::Null));
        let source = |(address, size): (&String, &Value)| {
            let size = PictureSize::of_part(size).map_err(|error| ApiError::field("features", error))?;
            Ok(self.images.source(address, "features")?.sized(size))
        };
        let sources = addresses.iter().zip(sizes).map(source).collect::<Result<Vec<_>, ApiError>>()?;
        self.prepare(&sources, limits)
    }

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

    fn text(&self, text: &str) -> Result<Prompt, ApiError> {
        self.check_room("prompt", self.processor.tokenizer().tokens_min(text.len()))?;
        let token_ids = self.processor.encode_prompt(text, &[]).map_err(|error| ApiError::field("prompt", error))?;
        self.checked("prompt", Prompt { token_ids, images: Vec::new() })
    }

    fn ids(&self, values: &[Value]) -> Result<Prompt, ApiError> {
        self.check_room("prompt", values.len())?;
        let id = |value: &Value| {
            let id = whole_value(value).and_then(|id| u32::try_from(id).ok());
            let wrong = || format!("has {}; a token id is a whole number from 0 on", shorten(&value.to_string()));
            id.ok_or_else(|| ApiError::field("prompt", wrong()))
        };
        let token_ids = values.iter().map(id).collect::<Result<Vec<u32>, ApiError>>()?;
        self.checked("prompt", Prompt { token_ids, images: Vec::new() })
    }

    /// The text of a conversation, as the template writes it.
    fn render(&self, messages: &mut [Message], request: &Request) -> Result<String, ApiError> {
        let goes_on = request.continue_final_message.unwrap_or(false);
        let opens = request.add_generation_prompt.unwrap_or(!goes_on);
        if goes_on && opens {
            let message = "and add_generation_prompt exclude each other; send add_generation_prompt = false";
            return Err(ApiError::field("continue_final_message", message));
        }
        if goes_on {
            let last = messages.last_mut().and_then(|message| message.content.last_mut());
            let Some(Part::Text(text)) = last else {
                return Err(ApiError::field("continue_final_message", "needs a last message that ends with text"));
            };
            text.push_str(CONTINUE_MARK);
        }
        let tools = request.tools.as_ref().filter(|tools| !tools.is_empty());
        let count = tools.map_or(0, Vec::len);
        check("tools", format!("a list of {count}"), count <= TOOLS_MAX, &format!("of at most {TOOLS_MAX}"))?;
        let variables = request.chat_template_kwargs.clone().unwrap_or_default();
        let bytes = serde_json::to_vec(&variables).map_or(0, |json| json.len());
        check(
            "chat_template_kwargs",
            format!("{bytes} bytes long"),
            bytes <= VARIABLES_BYTES_MAX,
            &format!("at most {VARIABLES_BYTES_MAX}"),
        )?;
        let options =
            RenderOptions { add_generation_prompt: opens, tools: tools.cloned().map(Value::Array), variables };
        let mut text = self.render_by(messages, request, &options)?;
        if tools.is_some() {
            let without = self.render_by(messages, request, &RenderOptions { tools: None, ..options });
            if without.is_ok_and(|without| without == text) {
                let message = "cannot be shown to this model: its chat template does not name them; leave them out, or start the server \
                               with a --chat-template that does";
                return Err(ApiError::field("tools", message));
            }
        }
        if let Some(end) = text.rfind(CONTINUE_MARK) {
            text.truncate(end);
        } else if goes_on {
            return Err(ApiError::field("continue_final_message", "does not work with this model's chat template"));
        }
        Ok(text)
    }

    /// The text of a conversation, by the template of the request or the server's own.
    fn render_by(&self, messages: &[Message], request: &Request, options: &RenderOptions) -> Result<String, ApiError> {
        match &request.chat_template {
            None => self.processor.render(messages, options),
            Some(_) if !self.trusts_templates => {
                let message = "is not taken from a request; start the server with --chat-template or --trust-request-chat-template";
                return Err(ApiError::field("chat_template", message));
            }
            Some(source) => self.processor.render_by(source.clone(), Some(&self.renderer), messages, options),
        }
        .map_err(|error| ApiError::prompt("messages", &error))
    }

    /// Decodes pictures and cuts them into patches. How many tokens they take is known before a pixel is decoded.
    fn prepare(
        &self,
        sources: &[ImageSource],
        limits: Option<PixelLimits>,
    ) -> Result<Vec<Arc<PreparedImage>>, ApiError> {
        let settings = self.settings(limits.unwrap_or_default())?;
        let mut tokens = 0;
        let mut prepared = Vec::with_capacity(sources.len());
        for (number, source) in sources.iter().enumerate() {
            let wrong = |reason: String| ApiError::bad(format!("image {number} of the messages: {reason}"));
            if let Some(size) = source.stored_size(Path::new("")) {
                tokens += settings.tokens(size, source.size()).map_err(|problem| wrong(problem.to_string()))?;
                self.check_room("messages", tokens)?;
            }
            let pixels = source.load(Path::new("")).map_err(|error| wrong(error.to_string()))?;
            let image = PreparedImage::prepare_at(&pixels, &settings, source.size());
            let image = image.map_err(|problem| wrong(problem.to_string()))?;
            prepared.push(Arc::new(image));
        }
        Ok(prepared)
    }

    fn settings(&self, limits: PixelLimits) -> Result<ImageSettings, ApiError> {
        let settings = self.processor.image_settings();
        let cell = settings.factor() * settings.factor();
        let applied = limits.apply(settings, (self.config.context_tokens * cell) as u64);
        applied.map_err(|error| ApiError::field(&format!("mm_processor_kwargs.{}", error.key), error.problem))
    }

    fn check_room(&self, param: &str, tokens: usize) -> Result<(), ApiError> {
        let context = self.config.context_tokens;
        if tokens >= context {
            let message = format!(
                "takes {tokens} tokens or more, and the context of {context} needs room for an answer; shorten it or lower max_pixels"
            );
            return Err(ApiError::field(param, message));
        }
        Ok(())
    }

    /// Checks length, vocabulary range and image placeholders.
    fn checked(&self, param: &str, prompt: Prompt) -> Result<Prompt, ApiError> {
        let ids = &prompt.token_ids;
        if ids.is_empty() {
            return Err(ApiError::field(param, "has no tokens; give at least one"));
        }
        self.check_room(param, ids.len())?;
        let vocab = self.config.vocab;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            let message = format!("has the token id {id}, but the model's ids end at {}", vocab - 1);
            return Err(ApiError::field(param, message));
        }
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        positions(ids, &grids, self.config.vision.merge, self.config.image_pad)
            .map_err(|error| ApiError::field(param, format!("cannot be used: {error}")))?;
        Ok(prompt)
    }
}

/// How many prompts a request has.
pub fn count(request: &Request) -> usize {
    match &request.prompt {
        Some(Value::Array(list)) if list.iter().any(|prompt| prompt.is_string() || prompt.is_array()) => list.len(),
        _ => 1,
    }
}

/// A part of a message's content that names a picture.
struct Picture<'a> {
    part: &'a Value,
    address: &'a str,
    param: String,
}

impl Picture<'_> {
    /// The size that is asked for it.
    fn size(&self) -> Result<Option<PictureSize>, ApiError> {
        PictureSize::of_part(self.part)
            .map_err(|error| ApiError::field(&format!("{}.{}", self.param, error.key), error.problem))
    }
}

/// The pictures of messages, in order.
fn pictures(messages: &[Value]) -> impl Iterator<Item = Picture<'_>> {
    messages.iter().enumerate().flat_map(|(number, message)| {
        let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        parts.iter().enumerate().filter_map(move |(place, part)| {
            Some(Picture { part, address: image_address(part)?, param: field(number, place) })
        })
    })
}

/// How many pictures the messages of a request have.
pub fn picture_count(request: &Request) -> usize {
    request.messages.as_deref().map_or(0, |messages| pictures(messages).count())
}

/// Mutable http(s) URLs of a request's pictures, each with its field name.
pub fn remote_pictures(request: &mut Request) -> impl Iterator<Item = (&mut String, String)> {
    request.messages.iter_mut().flatten().enumerate().flat_map(|(number, message)| {
        let parts = message.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten();
        parts.enumerate().filter_map(move |(place, part)| {
            let pointer = image_pointer(part)?;
            match part.pointer_mut(pointer)? {
                Value::String(address) if is_remote(address) => Some((address, field(number, place))),
                _ => None,
            }
        })
    })
}

fn field(message: usize, part: usize) -> String {
    format!("messages[{message}].content[{part}]")
}

/// The address of a picture in any of its forms.
fn image_address(part: &Value) -> Option<&str> {
    part.pointer(image_pointer(part)?)?.as_str()
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

/// Messages of the prompt's own kind; their pictures are `sources`, in order.
fn read_messages(values: &[Value], sources: &[ImageSource]) -> Result<Vec<Message>, ApiError> {
    let mut sources = sources.iter();
    values.iter().enumerate().map(|(number, value)| read_message(value, number, &mut sources)).collect()
}

fn read_message<'a>(
    value: &Value,
    number: usize,
    sources: &mut impl Iterator<Item = &'a ImageSource>,
) -> Result<Message, ApiError> {
    let param = format!("messages[{number}]");
    let fields = value.as_object().ok_or_else(|| ApiError::field(&param, "must be an object with role and content"))?;
    let role = fields.get("role").and_then(Value::as_str);
    let role = role.ok_or_else(|| ApiError::field(&param, "has no role; give system, user, assistant or tool"))?;
    let content = match fields.get("content") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text.clone())],
        Some(Value::Array(parts)) => {
            let part = |(place, part)| read_part(part, &format!("{param}.content[{place}]"), sources);
            parts.iter().enumerate().map(part).collect::<Result<_, ApiError>>()?
        }
        Some(_) => return Err(ApiError::field(&format!("{param}.content"), "must be a string or a list of parts")),
    };
    let is_other = |key: &str| key != "role" && key != "content";
    let mut other: Map<String, Value> =
        fields.iter().filter(|(key, _)| is_other(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(calls) = other.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(open_arguments);
    }
    Ok(Message { role: role.to_owned(), content, other })
}

/// Templates expect a call's arguments as an object, clients send them as JSON text.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(Ok(opened)) = arguments.as_str().map(serde_json::from_str) {
        *arguments = opened;
    }
}

fn read_part<'a>(
    part: &Value,
    param: &str,
    sources: &mut impl Iterator<Item = &'a ImageSource>,
) -> Result<Part, ApiError> {
    if let Some(text) = part.as_str() {
        return Ok(Part::Text(text.to_owned()));
    }
    if image_address(part).is_some() {
        let source = sources.next().ok_or_else(|| ApiError::field(param, "has no picture"))?;
        return Ok(Part::Image(source.clone()));
    }
    let text = |key: &str| {
        let text = part[key].as_str().map(|text| Part::Text(text.to_owned()));
        text.ok_or_else(|| ApiError::field(param, format!("has no {key:?}")))
    };
    match part["type"].as_str() {
        Some("text" | "input_text" | "output_text") => text("text"),
        Some("refusal") => text("refusal"),
        Some("image_url" | "image" | "input_image") => Err(ApiError::field(
            param,
            "names no picture; give {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:...\"}}",
        )),
        Some(other) => {
            let other = shorten(other);
            Err(ApiError::field(param, format!("is of type {other:?}; known types: text, image_url")))
        }
        None => Err(ApiError::field(param, "has no type; known types: text, image_url")),
    }
}
