//! Direct preference optimisation: of two answers to a prompt, the one that was chosen becomes likelier than the other, measured against
//! the starting weights. [`pairs`] makes samples of rows, [`loss`] is a plain function of numbers.

pub mod loss;
pub mod pairs;

use std::time::{Duration, Instant};

use loss::{Answer, PairLoss, pair_loss};
use pairs::{Pair, pair};

use super::dataset::Dataset;
use super::example_loop::{Accumulated, ExampleLoop};
use super::learner::{Learner, logprobs};
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use super::{Session, TrainError};
use crate::model::parameters::Weights;
use crate::recipe::plan::Plan;
use crate::recipe::{DpoSettings, LogprobKind};
use crate::telemetry::window::Metric;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let recipe = &plan.recipe;
    let processor = plan.processor()?;
    let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
    let context_tokens = plan.checkpoint.config.context_tokens;
    let (layout, budget) = (Layout::of(&processor), recipe.training.micro_batch_tokens);
    let draw = |number| pair(&dataset, &processor, context_tokens, number);
    ExampleLoop::open(plan, session, &processor, dataset.len())?.run(draw, |learner, reference, pairs| {
        let reference = reference.expect("a run of preferences has a reference");
        let learned = accumulate(learner, reference, pairs, &recipe.dpo, layout, budget);
        Accumulated {
            loss: learned.loss(),
            tokens: pairs.iter().map(Pair::tokens).sum(),
            trained_tokens: pairs.iter().map(Pair::targets).sum(),
            reference: learned.reference,
            metrics: learned.metrics(recipe.dpo.beta).map(|(name, value)| Metric::mean(name, value)).into(),
        }
    })
}

/// What a batch of pairs measured before the update.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Measured {
    /// For each pair: its answers, the chosen one first, and its loss.
    pub pairs: Vec<([Answer; 2], f64)>,
    /// Time that the reference's log-probabilities took.
    pub reference: Duration,
}

impl Measured {
    fn mean(&self, value: impl Fn([Answer; 2]) -> f64) -> f64 {
        self.pairs.iter().map(|&(answers, _)| value(answers)).sum::<f64>() / self.pairs.len() as f64
    }

    /// The mean loss of the pairs.
    pub fn loss(&self) -> f64 {
        self.pairs.iter().map(|(_, loss)| loss).sum::<f64>() / self.pairs.len() as f64
    }

    /// Means over the pairs, under TRL's names.
    pub fn metrics(&self, beta: f64) -> [(&'static str, f64); 6] {
        let rewards = |[chosen, rejected]: [Answer; 2]| [chosen.reward(beta), rejected.reward(beta)];
        let is_right = |answers| f64::from(u8::from(rewards(answers)[0] > rewards(answers)[1]));
        [
            ("rewards/chosen", self.mean(|answers| rewards(answers)[0])),
            ("rewards/rejected", self.mean(|answers| rewards(answers)[1])),
            ("rewards/accuracies", self.mean(is_right)),
            ("rewards/margins", self.mean(|answers| rewards(answers)[0] - rewards(answers)[1])),
            ("logps/chosen", self.mean(|[chosen, _]| chosen.logp)),
            ("logps/rejected", self.mean(|[_, rejected]| rejected.logp)),
        ]
    }
}

/// Adds the gradient of the pairs' mean loss, pack by pack. The two samples of a pair stand in one pack, where their prompt is computed once; a
/// pack has as many pairs as have at most `micro_batch_tokens` tokens, or one.
pub fn accumulate(
    learner: &mut Learner,
    reference: &Weights,
    pairs: &[Pair],
    settings: &DpoSettings,
    layout: Layout,
    micro_batch_tokens: usize,
) -> Measured {
    let tokens: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
    let mut measured = Measured::default();
    for run in runs_by_tokens(&tokens, micro_batch_tokens) {
        let samples: Vec<&Sample> = pairs[run].iter().flat_map(|pair| [&pair.chosen, &pair.rejected]).collect();
        let pack = Pack::new(&samples, layout);
        let ones = vec![1.0; pack.targets.len()];
        // The gradient of the pack before is no part of the reference's time.
        learner.model().backend.synchronise();
        let began = Instant::now();
        let held = logprobs(learner.model(), reference, &pack, &ones, learner.settings());
        measured.reference += began.elapsed();
        learner.accumulate(&pack, &ones, LogprobKind::Raw, |output| {
            let (logps, references) =
                (sums(&pack, &output.logprob, samples.len()), sums(&pack, &held.logprob, samples.len()));
            let answers: Vec<Answer> = (0..samples.len())
                .map(|i| Answer { logp: logps[i], reference_logp: references[i], tokens: samples[i].targets().count() })
                .collect();
            let mut slopes = Vec::with_capacity(answers.len());
            for both in answers.chunks_exact(2) {
                let PairLoss { loss, dchosen, drejected } = pair_loss(settings, both[0], both[1]);
                measured.pairs.push(([both[0], both[1]], loss));
                slopes.extend([dchosen, drejected]);
            }
            pack.places.iter().map(|&(member, _)| (slopes[member] / pairs.len() as f64) as f32).collect::<Vec<f32>>()
        });
    }
    measured
}

/// The sum of a value over the learned tokens of each of `members` samples.
fn sums(pack: &Pack, values: &[f32], members: usize) -> Vec<f64> {
    let mut sums = vec![0.0; members];
    for (&(member, _), &value) in pack.places.iter().zip(values) {
        sums[member] += f64::from(value);
    }
    sums
}
