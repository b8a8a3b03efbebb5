//! From what a request's prompts are made of to what the model reads: conversations, texts and token ids, pictures loaded under the server's
//! rules and all sizes checked before anything large is made.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::images::ImagePolicy;
use super::prompt_input::{Conversation, InputLimits, Picture, PromptInput};
use crate::isolated::Isolated;
use crate::model::config::Config;
use crate::prompt::positions::{Grid, positions};
use crate::prompt::{
    ImageSettings, ImageSource, Message, Part, PixelLimits, PreparedImage, Processor, Prompt, RenderOptions,
};
use crate::rollout::task::Task;
use crate::serve::error::ApiError;

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
    /// What the inputs of prompts may be.
    pub limits: InputLimits,
    /// Children that render the templates that requests bring.
    pub renderer: Arc<Isolated>,
}

impl Prompts {
    /// The prompts of a request.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn prepare(&self, input: PromptInput) -> Result<Vec<Prompt>, ApiError> {
        match input {
            PromptInput::Conversation(conversation) => Ok(vec![self.chat(*conversation)?]),
            PromptInput::Texts(texts) => texts.iter().map(|text| self.text(text)).collect(),
            PromptInput::TokenIds(lists) => lists.into_iter().map(|ids| self.ids(ids)).collect(),
            PromptInput::Tokens { token_ids, pictures, pixel_limits } => {
                let images = self.load(&self.sources(pictures)?, pixel_limits)?;
                Ok(vec![self.checked("token_ids", Prompt { token_ids, images })?])
            }
        }
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn chat(&self, mut conversation: Conversation) -> Result<Prompt, ApiError> {
        let sources = self.sources(std::mem::take(&mut conversation.pictures))?;
        let limits = conversation.pixel_limits;
        let text = self.render(conversation)?;
        self.check_room("messages", self.processor.tokenizer().tokens_min(text.len()))?;
        let images = self.load(&sources, limits)?;
        let token_ids = self.processor.encode_prompt(&text, &images).map_err(|e| ApiError::field("messages", e))?;
        self.checked("messages", Prompt { token_ids, images })
    }

    /// The task that a conversation is to an environment.
    ///
    /// # Errors
    /// When the input is none, is too long, or names a picture that cannot be used.
    pub fn task(&self, input: PromptInput) -> Result<Task, ApiError> {
        let PromptInput::Conversation(conversation) = input else {
            return Err(ApiError::field("messages", "is missing; a task is a conversation"));
        };
        let sources = self.sources(conversation.pictures)?;
        let mut messages = conversation.messages;
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
        let images = messages.iter_mut().flat_map(|message| &mut message.content).filter_map(|part| match part {
            Part::Image(image) => Some(image),
            Part::Text(_) => None,
        });
        images.zip(sources).for_each(|(image, source)| *image = source);
        Ok(Task::of_conversation(messages))
    }

    /// Fetches the pictures that lie on the network: data URLs take the place of their addresses.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn fetch(&self, input: &mut PromptInput) -> Result<(), ApiError> {
        let mut fetching = self.images.fetching();
        for picture in input.remote_pictures() {
            picture.address =
                fetching.fetch(&picture.address).map_err(|reason| ApiError::field(&picture.param, reason))?;
        }
        Ok(())
    }

    /// Where pictures come from, under the server's rules.
    fn sources(&self, pictures: Vec<Picture>) -> Result<Vec<ImageSource>, ApiError> {
        let source = |picture: Picture| Ok(self.images.source(picture.address, &picture.param)?.sized(picture.size));
        pictures.into_iter().map(source).collect()
    }

    fn text(&self, text: &str) -> Result<Prompt, ApiError> {
        self.check_room("prompt", self.processor.tokenizer().tokens_min(text.len()))?;
        let token_ids = self.processor.encode_prompt(text, &[]).map_err(|error| ApiError::field("prompt", error))?;
        self.checked("prompt", Prompt { token_ids, images: Vec::new() })
    }

    fn ids(&self, token_ids: Vec<u32>) -> Result<Prompt, ApiError> {
        self.checked("prompt", Prompt { token_ids, images: Vec::new() })
    }

    /// The text of a conversation, as the template writes it.
    fn render(&self, conversation: Conversation) -> Result<String, ApiError> {
        let Conversation { mut messages, tools, chat_template, variables, .. } = conversation;
        if conversation.continue_final_message {
            let last = messages.last_mut().and_then(|message| message.content.last_mut());
            let Some(Part::Text(text)) = last else {
                return Err(ApiError::field("continue_final_message", "needs a last message that ends with text"));
            };
            text.push_str(CONTINUE_MARK);
        }
        let template = chat_template.as_deref();
        let add_generation_prompt = conversation.add_generation_prompt;
        let options = RenderOptions { add_generation_prompt, tools: tools.map(Value::Array), variables };
        let mut text = self.render_by(&messages, template, &options)?;
        if options.tools.is_some() {
            let without = self.render_by(&messages, template, &RenderOptions { tools: None, ..options });
            if without.is_ok_and(|without| without == text) {
                let message = "cannot be shown to this model: its chat template does not name them; leave them out, or start the server \
                               with a --chat-template that does";
                return Err(ApiError::field("tools", message));
            }
        }
        if let Some(end) = text.rfind(CONTINUE_MARK) {
            text.truncate(end);
        } else if conversation.continue_final_message {
            return Err(ApiError::field("continue_final_message", "does not work with this model's chat template"));
        }
        Ok(text)
    }

    /// The text of a conversation, by the template of the request or the server's own.
    fn render_by(
        &self,
        messages: &[Message],
        template: Option<&str>,
        options: &RenderOptions,
    ) -> Result<String, ApiError> {
        match template {
            None => self.processor.render(messages, options),
            Some(source) => self.processor.render_by(source.to_owned(), Some(&self.renderer), messages, options),
        }
        .map_err(|error| ApiError::prompt("messages", &error))
    }

    /// Decodes pictures and cuts them into patches. How many tokens they take is known before a pixel is decoded.
    fn load(&self, sources: &[ImageSource], limits: PixelLimits) -> Result<Vec<Arc<PreparedImage>>, ApiError> {
        let settings = self.settings(limits)?;
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
        positions(ids, &grids, self.config.merge(), self.config.image_pad)
            .map_err(|error| ApiError::field(param, format!("cannot be used: {error}")))?;
        Ok(prompt)
    }
}
