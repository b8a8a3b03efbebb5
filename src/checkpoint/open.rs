//! The one way to open a checkpoint. A name becomes a folder, and the folder's config is read; the prompt side and the weights, which take
//! longer, are read when they are asked for, each checked against the config.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CheckpointError;
use super::{config, folder, processor, weights};
use crate::isolated::Isolated;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::parameters::Weights;
use crate::ops::Backend;
use crate::prompt::{ImageSettings, Processor, PromptError, read_image_settings};

/// A checkpoint's folder and config.
#[derive(Clone, PartialEq, Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// What `config.json` says, and the head's tensor of whether it is the embedding table.
    pub config: Config,
}

impl Checkpoint {
    /// Finds the folder that `name` means: a folder as it is, or the snapshot of `org/name` (or `org/name@revision`) in the local Hugging Face
    /// cache. Reads its config, and warns of the keys in its config files that have no effect.
    ///
    /// # Errors
    /// When there is no such folder, its config cannot be read, or says what is not built.
    pub fn open(name: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let dir = folder::resolve(name)?;
        let config = config::open(&dir)?;
        Ok(Checkpoint { dir, config })
    }

    /// How pictures are prepared.
    ///
    /// # Errors
    /// When the model has no vision tower, the settings are missing or damaged, or pictures would not be cut into the patches that it reads.
    pub fn image_settings(&self) -> Result<ImageSettings, PromptError> {
        processor::tower(&self.config, &self.dir)?;
        let settings = read_image_settings(&self.dir)?;
        processor::check_images(&settings, &self.config, &self.dir)?;
        Ok(settings)
    }

    /// The prompt side. Templates are rendered by children, if some are given.
    ///
    /// # Errors
    /// When the model has no vision tower, or a file is missing or damaged, or belongs to another checkpoint.
    pub fn processor(&self, renderer: Option<Arc<Isolated>>) -> Result<Processor, PromptError> {
        processor::tower(&self.config, &self.dir)?;
        let processor = self.processor_if_any(renderer)??;
        processor::check_images(processor.image_settings(), &self.config, &self.dir)?;
        Ok(processor)
    }

    /// The prompt side, or why there is none: sequences of token ids can be read without. Its [`Checkpoint::image_settings`] are yet to be
    /// checked.
    ///
    /// # Errors
    /// When it is there, and belongs to another checkpoint.
    pub fn processor_if_any(
        &self,
        renderer: Option<Arc<Isolated>>,
    ) -> Result<Result<Processor, PromptError>, PromptError> {
        let processor = Processor::open_with(&self.dir, renderer);
        if let Ok(processor) = &processor {
            processor::check_tokens(processor, &self.config, &self.dir)?;
        }
        Ok(processor)
    }

    /// The architecture on a backend.
    pub fn model(&self, backend: Arc<dyn Backend>) -> Model {
        Model::new(self.config.clone(), backend)
    }

    /// The folder's weights, of the layout of `model`. Warns of the folder's notes ([`super::files::TensorFiles::notes`]), of tensors that are
    /// not used, and of weights that are rounded to bf16.
    ///
    /// # Errors
    /// When the folder's tensors are not those of the layout, or change meanwhile.
    pub fn weights(&self, model: &Model) -> Result<Weights, CheckpointError> {
        weights::load(model, &self.dir)
    }
}
