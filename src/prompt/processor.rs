//! A checkpoint's whole prompt side in one value: tokenizer, chat template, image settings and the ids that matter.

mod chat_template;
mod config_files;
mod config_warnings;
mod error;
mod preprocessor_config;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use chat_template::{compile, read_template};
use config_files::read_json;
pub use config_warnings::warnings;
pub use error::PromptError;
pub use preprocessor_config::read_image_settings;
use serde_json::{Map, Value};

use super::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use super::image::PreparedImage;
use super::image_problem::ImageProblem;
use super::image_settings::ImageSettings;
use super::tokenizer::Tokenizer;
use crate::hub::keys::{TOKENIZER, accept};
use crate::isolated::Isolated;

/// How a picture is written in prompt text, as the chat template writes it.
pub const IMAGE_MARKUP: &str = "<|vision_start|><|image_pad|><|vision_end|>";

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
    /// What the template is told of every conversation, unless it is told otherwise.
    template_variables: Map<String, Value>,
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
            template_variables: Map::new(),
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

    /// The same with variables that the chat template is told of every conversation, such as `enable_thinking`; what a conversation itself says of one
    /// takes its place.
    pub fn with_template_variables(self, template_variables: Map<String, Value>) -> Self {
        Processor { template_variables, ..self }
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
        Ok(self.template.as_ref().ok_or_else(no_template)?.render(messages, &self.told(options))?)
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
        Ok(self.compile(source, renderer)?.render(messages, &self.told(options))?)
    }

    /// The options with the variables that every conversation has.
    fn told(&self, options: &RenderOptions) -> RenderOptions {
        let mut variables = self.template_variables.clone();
        variables.extend(options.variables.clone());
        RenderOptions { variables, ..options.clone() }
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

    /// Whether the checkpoint's chat template describes tools to the model.
    pub fn template_takes_tools(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::takes_tools)
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
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        self.encode_rendered(messages, image_folder, &options, &self.image_settings)
    }

    /// [`Processor::encode_messages`] with what else the template is told, and with limits of pixels.
    ///
    /// # Errors
    /// As that has them.
    pub fn encode_rendered(
        &self,
        messages: &[Message],
        image_folder: &Path,
        options: &RenderOptions,
        settings: &ImageSettings,
    ) -> Result<Prompt, PromptError> {
        let text = self.render(messages, options)?;
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
