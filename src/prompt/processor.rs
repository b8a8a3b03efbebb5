//! A checkpoint's whole prompt side in one value: tokenizer, chat template, image settings and the ids that matter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use super::image::PreparedImage;
use super::image_problem::{ImageError, ImageProblem};
use super::image_settings::ImageSettings;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::files::open::{self as files, SETTINGS_BYTES_MAX, TOKENIZER_BYTES_MAX};
use crate::hub::keys::{PREPROCESSOR, PROCESSOR, SIZE, TOKENIZER, accept, warnings as key_warnings};
use crate::hub::{POINTER_REMEDY, is_lfs_pointer};
use crate::isolated::Isolated;

/// How a picture is written in prompt text, as the chat template writes it.
pub const IMAGE_MARKUP: &str = "<|vision_start|><|image_pad|><|vision_end|>";

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

/// What a sequence starts from: its token ids, and the images whose placeholders stand in them, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids; each image stands as `grid.tokens(merge_size)` placeholders.
    pub token_ids: Vec<u32>,
    /// The images in order.
    pub images: Vec<Arc<PreparedImage>>,
}

/// Ids of the tokens that code, not only the model, must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<|image_pad|>`: stands for one merged cell of an image.
    pub image_pad: u32,
    /// `<|video_pad|>`: stands for one merged cell of a video.
    pub video_pad: u32,
    /// `<|vision_start|>`: comes before an image's placeholders.
    pub vision_start: u32,
    /// `<|vision_end|>`: comes after an image's placeholders.
    pub vision_end: u32,
    /// `<|im_start|>`: opens a message.
    pub im_start: u32,
    /// `<|im_end|>`: closes a message.
    pub im_end: u32,
    /// `<|endoftext|>`: ends a text, and by default an answer.
    pub endoftext: u32,
}

/// The prompt side of a checkpoint folder.
pub struct Processor {
    folder: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    image_settings: ImageSettings,
    special_ids: SpecialIds,
    /// Who renders templates; this process without one.
    renderer: Option<Arc<Isolated>>,
}

impl Processor {
    /// Reads `tokenizer.json` with the tokens that `tokenizer_config.json` adds, the chat template (`chat_template.jinja`, else
    /// `chat_template.json`, else `tokenizer_config.json`, else `processor_config.json`) and the `image_processor` of
    /// `processor_config.json` (else `preprocessor_config.json`).
    ///
    /// # Errors
    /// When a file is missing or damaged, or says what is not built, or the tokenizer lacks a special token. A missing template is an error
    /// only when messages are rendered.
    pub fn open(folder: &Path) -> Result<Self, PromptError> {
        Processor::open_with(folder, None)
    }

    /// [`Processor::open`]; templates are rendered by children, if one is given: whatever a template does, this process goes on.
    ///
    /// # Errors
    /// As that has them.
    pub fn open_with(folder: &Path, renderer: Option<Arc<Isolated>>) -> Result<Self, PromptError> {
        let config_path = folder.join("tokenizer_config.json");
        let config = read_json(&config_path)?;
        if let Some(Value::Object(config)) = &config {
            accept(&[TOKENIZER], config, "").map_err(|reason| PromptError::Invalid { path: config_path, reason })?;
        }
        let added = read_json(&folder.join("added_tokens.json"))?;
        let tokenizer = Tokenizer::open(folder)?.with_declared(config.as_ref(), added.as_ref())?;
        let id = |token: &str| tokenizer.required_token_id(token);
        let special_ids = SpecialIds {
            image_pad: id("<|image_pad|>")?,
            video_pad: id("<|video_pad|>")?,
            vision_start: id("<|vision_start|>")?,
            vision_end: id("<|vision_end|>")?,
            im_start: id("<|im_start|>")?,
            im_end: id("<|im_end|>")?,
            endoftext: id("<|endoftext|>")?,
        };
        Ok(Processor {
            template: read_template(folder, renderer.as_ref())?,
            image_settings: read_image_settings(folder)?,
            folder: folder.to_owned(),
            tokenizer,
            special_ids,
            renderer,
        })
    }

    /// The same with another upper limit on a picture's pixels after resizing.
    pub fn with_max_pixels(mut self, max_pixels: u64) -> Self {
        self.image_settings.max_pixels = max_pixels;
        self
    }

    /// The same with another lower limit on a picture's pixels after resizing.
    pub fn with_min_pixels(mut self, min_pixels: u64) -> Self {
        self.image_settings.min_pixels = min_pixels;
        self
    }

    /// The same with another chat template.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn with_template(mut self, source: String) -> Result<Self, PromptError> {
        self.template = Some(self.compile(source, self.renderer.as_ref())?);
        Ok(self)
    }

    fn compile(&self, source: String, renderer: Option<&Arc<Isolated>>) -> Result<ChatTemplate, PromptError> {
        let config = read_json(&self.folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        Ok(compile(source, &config, renderer)?)
    }

    /// The tokenizer of the checkpoint.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids of the special tokens.
    pub fn special_ids(&self) -> SpecialIds {
        self.special_ids
    }

    /// How pictures are prepared.
    pub fn image_settings(&self) -> &ImageSettings {
        &self.image_settings
    }

    /// Resizes a picture and cuts it into patches.
    ///
    /// # Errors
    /// When its size is unusable.
    pub fn prepare(&self, image: &RgbImage) -> Result<PreparedImage, ImageProblem> {
        PreparedImage::prepare(image, &self.image_settings)
    }

    /// Tokens that a prepared picture takes.
    pub fn image_tokens(&self, image: &PreparedImage) -> usize {
        image.grid.tokens(self.image_settings.merge_size)
    }

    /// The prompt text of a conversation, with one `<|image_pad|>` for each image.
    ///
    /// # Errors
    /// When there is no template, or it refuses the messages.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, PromptError> {
        let no_template = || ChatError::NoTemplate { folder: self.folder.clone() };
        Ok(self.template.as_ref().ok_or_else(no_template)?.render(messages, options)?)
    }

    /// [`Processor::render`] by another chat template, in another child if one is given.
    ///
    /// # Errors
    /// When it is not valid Jinja, or refuses the messages.
    pub fn render_by(
        &self,
        source: String,
        renderer: Option<&Arc<Isolated>>,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, PromptError> {
        Ok(self.compile(source, renderer)?.render(messages, options)?)
    }

    /// Token ids of a prompt text in which each `<|image_pad|>` stands for one of `images`, in order; it becomes as many
    /// placeholders as the image has tokens.
    ///
    /// # Errors
    /// When placeholders and images differ in number.
    pub fn encode_prompt(&self, text: &str, images: &[Arc<PreparedImage>]) -> Result<Vec<u32>, PromptError> {
        let token_ids = self.tokenizer.encode(text)?;
        let pads = self.pads_in(&token_ids);
        if pads != images.len() {
            return Err(PromptError::ImageCount { pads, images: images.len() });
        }
        let mut expanded = Vec::with_capacity(token_ids.len() + self.pads_for(images));
        let mut images = images.iter();
        for id in token_ids {
            let image = if id == self.special_ids.image_pad { images.next() } else { None };
            let times = image.map_or(1, |image| self.image_tokens(image));
            expanded.extend(std::iter::repeat_n(id, times));
        }
        Ok(expanded)
    }

    /// Renders a conversation, loads and prepares its images (relative paths start at `image_folder`), and encodes it.
    ///
    /// # Errors
    /// When an image cannot be used, the template refuses the messages, or a text contains a literal `<|image_pad|>`.
    pub fn encode_messages(
        &self,
        messages: &[Message],
        image_folder: &Path,
        add_generation_prompt: bool,
    ) -> Result<Prompt, PromptError> {
        self.encode_messages_at(messages, image_folder, add_generation_prompt, &self.image_settings)
    }

    /// [`Processor::encode_messages`] with other limits of pixels.
    ///
    /// # Errors
    /// As that has them.
    pub fn encode_messages_at(
        &self,
        messages: &[Message],
        image_folder: &Path,
        add_generation_prompt: bool,
        settings: &ImageSettings,
    ) -> Result<Prompt, PromptError> {
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        let text = self.render(messages, &options)?;
        let mut images = Vec::new();
        for source in messages.iter().flat_map(Message::images) {
            let pixels = source.load(image_folder)?;
            images.push(Arc::new(PreparedImage::prepare_at(&pixels, settings, source.size())?));
        }
        Ok(Prompt { token_ids: self.encode_prompt(&text, &images)?, images })
    }

    /// Checks ids that are already expanded against their images.
    ///
    /// # Errors
    /// When the placeholders are not as many as the images need.
    pub fn check_expanded(&self, token_ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), PromptError> {
        let (pads, expected) = (self.pads_in(token_ids), self.pads_for(images));
        if pads == expected {
            return Ok(());
        }
        Err(PromptError::PadCount { pads, images: images.len(), expected })
    }

    fn pads_in(&self, token_ids: &[u32]) -> usize {
        token_ids.iter().filter(|&&id| id == self.special_ids.image_pad).count()
    }

    fn pads_for(&self, images: &[Arc<PreparedImage>]) -> usize {
        images.iter().map(|image| self.image_tokens(image)).sum()
    }
}

/// The first template that the folder has, compiled with the special tokens of `tokenizer_config.json`.
fn read_template(folder: &Path, renderer: Option<&Arc<Isolated>>) -> Result<Option<ChatTemplate>, PromptError> {
    let config_path = folder.join("tokenizer_config.json");
    let config = read_json(&config_path)?.unwrap_or(Value::Null);
    let source = match read_text(&folder.join("chat_template.jinja"))? {
        Some(source) => Some(source),
        None => {
            let path = folder.join("chat_template.json");
            match read_json(&path)? {
                Some(json) => Some(template_text(&json["chat_template"], &path)?),
                None if config["chat_template"].is_null() => {
                    let path = folder.join("processor_config.json");
                    let json = read_json(&path)?.unwrap_or(Value::Null);
                    let template = Some(&json["chat_template"]).filter(|template| !template.is_null());
                    template.map(|template| template_text(template, &path)).transpose()?
                }
                None => Some(template_text(&config["chat_template"], &config_path)?),
            }
        }
    };
    Ok(source.map(|source| compile(source, &config, renderer)).transpose()?)
}

/// A template with the special tokens of `tokenizer_config.json`.
fn compile(source: String, config: &Value, renderer: Option<&Arc<Isolated>>) -> Result<ChatTemplate, ChatError> {
    match renderer {
        Some(renderer) => ChatTemplate::isolated(source, special_tokens(config), renderer),
        None => ChatTemplate::compile(source, special_tokens(config)),
    }
}

/// A template as a string, or the one named `default` of several.
fn template_text(template: &Value, path: &Path) -> Result<String, PromptError> {
    let named_default = || template.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    let text = template.as_str().or_else(named_default).or_else(|| template["default"].as_str());
    text.map(str::to_owned).ok_or_else(|| PromptError::Invalid {
        path: path.to_owned(),
        reason: "chat_template is neither a string, nor several of which one is named \"default\"".to_owned(),
    })
}

/// `bos_token` and the like, given as a string or as an object with `content`.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let text = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str());
    names.iter().filter_map(|&name| Some((name.to_owned(), Value::from(text(name)?)))).collect()
}

/// How the checkpoint in `folder` wants its pictures: the `image_processor` of `processor_config.json`, else
/// `preprocessor_config.json`, as in transformers.
///
/// # Errors
/// When neither is there, or it is damaged, or says what is not built.
pub fn read_image_settings(folder: &Path) -> Result<ImageSettings, PromptError> {
    let Some((path, json)) = image_processor(folder)? else {
        return Err(PromptError::Invalid {
            path: folder.join(PREPROCESSOR_FILE),
            reason: "does not exist, and no processor_config.json has an image_processor; copy it from the checkpoint"
                .to_owned(),
        });
    };
    parse_image_settings(&json).map_err(|reason| PromptError::Invalid { path, reason })
}

const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
const PROCESSOR_FILE: &str = "processor_config.json";

/// The object that says how pictures are prepared, and its file.
fn image_processor(folder: &Path) -> Result<Option<(PathBuf, Value)>, PromptError> {
    let path = folder.join(PROCESSOR_FILE);
    if let Some(mut json) = read_json(&path)?
        && !json["image_processor"].is_null()
    {
        return Ok(Some((path, json["image_processor"].take())));
    }
    let path = folder.join(PREPROCESSOR_FILE);
    Ok(read_json(&path)?.map(|json| (path, json)))
}

/// The texts of the added tokens of `tokenizer.json`; none where it cannot be read.
fn own_added_tokens(folder: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Added {
        content: String,
    }
    #[derive(Deserialize)]
    struct File {
        added_tokens: Vec<Added>,
    }
    let bytes = files::read(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX).unwrap_or_default();
    let tokens = serde_json::from_slice(&bytes).map_or(Vec::new(), |file: File| file.added_tokens);
    tokens.into_iter().map(|token| token.content).collect()
}

/// A warning for each key of picture settings that has no effect.
fn picture_warnings(object: &Map<String, Value>, place: &str) -> Vec<String> {
    let mut found = key_warnings(&[PREPROCESSOR], object, place);
    let Some(Value::Object(size)) = object.get("size") else { return found };
    found.extend(key_warnings(&[SIZE], size, &format!("{place}size.")));
    for (key, edge) in [("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")] {
        let limits = [object.get(key), size.get(edge), size.get(key)];
        let limits: Vec<u64> = limits.into_iter().flatten().filter_map(|value| positive(value, key).ok()).collect();
        if let Some(other) = limits.iter().find(|limit| **limit != limits[0]) {
            let used = limits[0];
            found.push(format!(
                "{place}{key} and {place}size ({edge}) say {used} and {other}; {used} is used, as in transformers"
            ));
        }
    }
    found
}

/// A warning for each key without effect in the config files of the prompt side, with its file; none for files that cannot be read.
pub fn warnings(folder: &Path) -> Vec<String> {
    let object = |name: &str| match read_json(&folder.join(name)) {
        Ok(Some(Value::Object(object))) => object,
        _ => Map::new(),
    };
    let mut found = Vec::new();
    let mut say = |name: &str, messages: Vec<String>| {
        let path = folder.join(name);
        found.extend(messages.into_iter().map(|message| format!("{}: {message}", path.display())));
    };
    let (whole, own, tokenizer) = (object(PROCESSOR_FILE), object(PREPROCESSOR_FILE), object("tokenizer_config.json"));
    say(PROCESSOR_FILE, key_warnings(&[PROCESSOR], &whole, ""));
    match whole.get("image_processor") {
        Some(Value::Object(nested)) => {
            say(PROCESSOR_FILE, picture_warnings(nested, "image_processor."));
            let settings = [nested.clone(), own.clone()].map(|object| parse_image_settings(&Value::Object(object)));
            if !own.is_empty() && settings[0] != settings[1] {
                let message = "is not read beside processor_config.json, which says something else, as in transformers";
                say(PREPROCESSOR_FILE, vec![message.to_owned()]);
            }
        }
        _ => say(PREPROCESSOR_FILE, picture_warnings(&own, "")),
    }
    // Every `*_token` is read.
    let is_token = |key: &str, value: &Value| key.ends_with("_token") && (value.is_string() || value.is_object());
    let others = tokenizer.iter().filter(|(key, value)| !is_token(key, value));
    let others = others.map(|(key, value)| (key.clone(), value.clone())).collect();
    say("tokenizer_config.json", key_warnings(&[TOKENIZER], &others, ""));
    if let Some(Value::Object(declared)) = tokenizer.get("added_tokens_decoder") {
        let is_declared = |token: &str| declared.values().any(|entry| entry["content"] == token);
        let left: Vec<String> =
            object("added_tokens.json").keys().filter(|token| !is_declared(token)).cloned().collect();
        if let Some(token) = left.first() {
            let message =
                format!("{token:?} is not in added_tokens_decoder of tokenizer_config.json, which is read instead");
            say("added_tokens.json", vec![message]);
        }
        if let Some(token) = own_added_tokens(folder).into_iter().find(|token| !is_declared(token)) {
            let message = format!(
                "added_tokens_decoder lacks {token:?}, which tokenizer.json has; it keeps its id here, transformers 5 gives it another"
            );
            say("tokenizer_config.json", vec![message]);
        }
    }
    found
}

/// Reads both spellings of the limits; as in transformers, `min_pixels` and `max_pixels` win over `size`.
fn parse_image_settings(json: &Value) -> Result<ImageSettings, String> {
    let default = ImageSettings::default();
    accept(&[PREPROCESSOR], json.as_object().ok_or("image_processor is not an object")?, "")?;
    let size = &json["size"];
    match size {
        Value::Null => {}
        Value::Object(size) => accept(&[SIZE], size, "size.")?,
        other => return Err(format!("size is {other}; it must be an object with shortest_edge and longest_edge")),
    }
    let limit = |key: &str, edge: &str, default: u64| {
        let places = [(&json[key], key), (&size[edge], edge), (&size[key], key)];
        let given = places.into_iter().filter(|(value, _)| !value.is_null());
        let numbers = given.map(|(value, key)| positive(value, key)).collect::<Result<Vec<_>, _>>()?;
        Ok::<u64, String>(numbers.first().copied().unwrap_or(default))
    };
    let side = |key: &str, default: usize| match &json[key] {
        Value::Null => Ok(default),
        value => positive(value, key).map(|side| side as usize),
    };
    let settings = ImageSettings {
        patch_size: side("patch_size", default.patch_size)?,
        merge_size: side("merge_size", default.merge_size)?,
        temporal_patch_size: side("temporal_patch_size", default.temporal_patch_size)?,
        min_pixels: limit("min_pixels", "shortest_edge", default.min_pixels)?,
        max_pixels: limit("max_pixels", "longest_edge", default.max_pixels)?,
        mean: channels(&json["image_mean"], "image_mean", default.mean)?,
        std: channels(&json["image_std"], "image_std", default.std)?,
    };
    let is_deviation = |std: &f32| std.is_finite() && *std > 0.0;
    if !settings.std.iter().all(is_deviation) {
        return Err(format!("image_std is {:?}; give three numbers above 0", settings.std));
    }
    if !settings.mean.iter().all(|mean| mean.is_finite()) {
        return Err(format!("image_mean is {:?}; give three finite numbers", settings.mean));
    }
    if settings.min_pixels > settings.max_pixels {
        return Err(format!("min_pixels is {}, above max_pixels {}", settings.min_pixels, settings.max_pixels));
    }
    Ok(settings)
}

fn positive(value: &Value, key: &str) -> Result<u64, String> {
    // Some checkpoints write a whole number as a float.
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && *float > 0.0).map(|float| float as u64);
    let number = value.as_u64().or_else(float).filter(|&number| (1..=1 << 40).contains(&number));
    number.ok_or_else(|| format!("{key} is {value}; it must be a positive whole number"))
}

fn channels(value: &Value, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
    if value.is_null() {
        return Ok(default);
    }
    let number = |number: &Value| number.as_f64().map(|number| number as f32);
    let numbers: Option<Vec<f32>> = value.as_array().and_then(|numbers| numbers.iter().map(number).collect());
    let three = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
    three.ok_or_else(|| format!("{key} is {value}; it must be a list of three numbers"))
}

/// The text of a file, or none when it does not exist.
fn read_text(path: &Path) -> Result<Option<String>, PromptError> {
    match files::read_text(path, SETTINGS_BYTES_MAX) {
        Ok(text) if is_lfs_pointer(text.as_bytes()) => {
            Err(PromptError::Invalid { path: path.to_owned(), reason: POINTER_REMEDY.to_owned() })
        }
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PromptError::Read { path: path.to_owned(), source }),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, PromptError> {
    let invalid = |reason: String| PromptError::Invalid {
        path: path.to_owned(),
        reason: format!("is not {reason}; copy it again from the checkpoint"),
    };
    let parse = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err(invalid("a JSON object".to_owned())),
        Err(error) => Err(invalid(format!("valid JSON ({error})"))),
    };
    read_text(path)?.map(parse).transpose()
}
