//! The engine and the weights that it borrows, as rollout's [`Generator`].

use std::sync::Arc;

use super::generator::{GenerateRequest, Generator, GeneratorError, TokenEvent};
use crate::engine::Engine;
use crate::model::parameters::Weights;
use crate::prompt::PreparedImage;

/// Generates with an engine under fixed weights.
pub struct EngineGenerator<'a> {
    /// Sequences and pages.
    pub engine: &'a mut Engine,
    /// The policy's weights, the same at every step.
    pub weights: &'a Weights,
}

impl Generator for EngineGenerator<'_> {
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        self.engine.open(&request)
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        self.engine.step(self.weights)
    }

    fn append(
        &mut self,
        sequence: u64,
        token_ids: &[u32],
        images: &[Arc<PreparedImage>],
    ) -> Result<(), GeneratorError> {
        self.engine.append(sequence, token_ids, images)
    }

    fn close(&mut self, sequence: u64) {
        self.engine.close(sequence);
    }
}
