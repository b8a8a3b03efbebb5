//! A checkpoint made ready for `score`, `generate` and `batch`, and requests made ready for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::device::Device;
use super::isolated::renderer;
use super::requests::{Form, Problem, Request};
use crate::checkpoint::Checkpoint;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::image::PIXELS_MAX;
use crate::prompt::positions::{Grid, positions};
use crate::prompt::{ImageSettings, ImageSource, PreparedImage, Processor, Prompt, PromptError, RenderOptions};

/// A checkpoint in memory.
pub struct LoadedCheckpoint {
    /// The folder that it was read from.
    pub dir: PathBuf,
    /// The architecture, on the chosen device.
    pub model: Model,
    /// Weights as the folder has them.
    pub weights: Weights,
    image_settings: ImageSettings,
    /// Absent where the folder has no tokenizer: token ids can be scored without.
    processor: Result<Arc<Processor>, PromptError>,
}

impl LoadedCheckpoint {
    /// Loads the folder or name `model`.
    pub fn open(model: &str, device: Device) -> anyhow::Result<LoadedCheckpoint> {
        let checkpoint = Checkpoint::open(model)?;
        let image_settings = checkpoint.image_settings()?;
        let processor = checkpoint.processor_if_any(Some(renderer()))?.map(Arc::new);
        let model = checkpoint.model(device.backend(&checkpoint.config)?);
        let weights = checkpoint.weights(&model)?;
        Ok(LoadedCheckpoint { dir: checkpoint.dir, model, weights, image_settings, processor })
    }

    /// The prompt side.
    pub fn processor(&self) -> anyhow::Result<Arc<Processor>> {
        match &self.processor {
            Ok(processor) => Ok(processor.clone()),
            Err(error) => Err(anyhow::anyhow!("{error}")).context("this command needs the checkpoint's tokenizer"),
        }
    }

    /// How pixels are normalised: mean and standard deviation of each channel.
    pub fn pixel_scale(&self) -> PixelScale {
        PixelScale { mean: self.image_settings.mean, std: self.image_settings.std }
    }

    /// Makes a request ready; its relative paths start at `folder`. With `answer_tokens` above 0 a conversation ends by opening the
    /// assistant's turn, and a position stays free.
    pub fn prompt(&self, request: &Request, folder: &Path, answer_tokens: usize) -> Result<Prompt, Problem> {
        let settings = self.settings(request)?;
        let prompt = match (&request.form, &self.processor) {
            (Form::TokenIds(ids), _) => {
                Prompt { token_ids: ids.clone(), images: images(&request.images, folder, &settings)? }
            }
            (_, Err(error)) => return Err(Problem::Json(format!("only `token_ids` can be used: {error}"))),
            (Form::Messages(messages), Ok(processor)) => {
                let options = RenderOptions { add_generation_prompt: answer_tokens > 0, ..RenderOptions::default() };
                processor.encode_rendered(messages, folder, &options, &settings)?
            }
            (Form::Prompt(text), Ok(processor)) => {
                let images = images(&request.images, folder, &settings)?;
                Prompt { token_ids: processor.encode_prompt(text, &images)?, images }
            }
        };
        self.check(&prompt, answer_tokens)?;
        Ok(prompt)
    }

    /// The most tokens that a request to be answered can have before its answer. No picture is decoded for it: headers tell their
    /// sizes, and a token of text has at least a byte.
    pub fn prompt_tokens_max(&self, request: &Request, folder: &Path) -> usize {
        let text = match (&request.form, &self.processor) {
            (Form::TokenIds(ids), _) => ids.len(),
            (Form::Prompt(text), _) => text.len(),
            (Form::Messages(messages), Ok(processor)) => {
                let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
                processor.render(messages, &options).map_or(0, |text| text.len())
            }
            (Form::Messages(_), Err(_)) => 0,
        };
        let settings = self.settings(request).unwrap_or_else(|_| self.image_settings.clone());
        let tokens = |source: &ImageSource| settings.tokens(source.stored_size(folder)?, source.size()).ok();
        let images: usize = request.sources().iter().filter_map(tokens).sum();
        (text + images).min(self.model.config.context_tokens)
    }

    /// How a request's pictures are prepared.
    fn settings(&self, request: &Request) -> Result<ImageSettings, Problem> {
        Ok(request.limits.apply(&self.image_settings, PIXELS_MAX)?)
    }

    /// Everything that the model takes for granted.
    fn check(&self, prompt: &Prompt, answer_tokens: usize) -> Result<(), Problem> {
        let (ids, config) = (&prompt.token_ids, &self.model.config);
        if ids.is_empty() {
            return Err(Problem::Empty);
        }
        if let Some(index) = ids.iter().position(|&id| id as usize >= config.vocab) {
            return Err(Problem::TokenId { index, id: ids[index], vocab: config.vocab });
        }
        let reserved = usize::from(answer_tokens > 0);
        if ids.len() + reserved > config.context_tokens {
            return Err(Problem::TooLong { tokens: ids.len(), context: config.context_tokens, reserved });
        }
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        positions(ids, &grids, config.merge(), config.image_pad)?;
        Ok(())
    }
}

fn images(
    sources: &[ImageSource],
    folder: &Path,
    settings: &ImageSettings,
) -> Result<Vec<Arc<PreparedImage>>, Problem> {
    let prepare = |(number, source): (usize, &ImageSource)| {
        let pixels = source.load(folder)?;
        let prepared = PreparedImage::prepare_at(&pixels, settings, source.size());
        Ok(Arc::new(prepared.map_err(|problem| Problem::Picture(number, problem))?))
    };
    sources.iter().enumerate().map(prepare).collect()
}
