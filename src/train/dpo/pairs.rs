//! From preferences to pairs of samples.

use std::sync::Arc;

use crate::prompt::Processor;
use crate::tasks::Example;
use crate::train::dataset::{Dataset, DatasetError, Preferred};
use crate::train::demonstration;
use crate::train::loss_mask::LossMask;
use crate::train::sample::Sample;

/// Two answers to one prompt. Learned are the assistant's own words behind the prompt.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The prompt with the answer that was chosen.
    pub chosen: Sample,
    /// The prompt with the other.
    pub rejected: Sample,
}

impl Pair {
    /// Tokens of both, the prompt twice.
    pub fn tokens(&self) -> usize {
        self.chosen.tokens() + self.rejected.tokens()
    }

    /// Tokens of both that are learned.
    pub fn targets(&self) -> usize {
        self.chosen.targets().count() + self.rejected.targets().count()
    }
}

/// Pair `number` of a data set, for a model that takes `context_tokens`.
///
/// # Errors
/// When it cannot be used: a picture, its text, its length, or that both answers are the same.
pub fn pair(
    dataset: &Dataset,
    processor: &Processor,
    context_tokens: usize,
    number: u64,
) -> Result<Pair, DatasetError> {
    let Preferred { chosen, rejected, prompt_messages } = dataset.preferred(number)?;
    let name = || dataset.name_of(number);
    let sample = |example: &Example| {
        let sample = demonstration::sample(processor, example, LossMask::of_completion(prompt_messages))
            .map_err(|source| DatasetError::Example { example: name(), source })?;
        match sample.tokens() {
            tokens if tokens > context_tokens => {
                Err(DatasetError::TooLong { example: name(), tokens, limit: context_tokens })
            }
            _ => Ok(sample),
        }
    };
    let (chosen, mut rejected) = (sample(&chosen)?, sample(&rejected)?);
    if chosen.ids == rejected.ids {
        return Err(DatasetError::SameAnswers { example: name() });
    }
    share_pictures(&chosen, &mut rejected);
    Ok(Pair { chosen, rejected })
}

/// Pictures that both conversations begin with are held once, so that a pack computes them once.
fn share_pictures(chosen: &Sample, rejected: &mut Sample) {
    for (chosen, rejected) in chosen.images.iter().zip(&mut rejected.images) {
        if chosen.prepared != rejected.prepared {
            return;
        }
        rejected.prepared = Arc::clone(&chosen.prepared);
    }
}
