//! AdamW's settings and the learning rate's course.

use serde::{Deserialize, Serialize};

use crate::model::parameters::Role;

/// Keys as in transformers' `TrainingArguments`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// How the moments are stored.
    pub optim: Optim,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up.
    pub lr_scheduler_type: Schedule,
    /// Lowest rate of `cosine_with_min_lr`, as a share of the peak.
    pub min_lr_rate: f64,
    /// Updates of linear warm-up, the first of which has the rate 0; wins over `warmup_ratio` when above 0.
    pub warmup_steps: u64,
    /// Share of all updates that warm up.
    pub warmup_ratio: f64,
    /// Decoupled weight decay of matrices; norms and biases have none.
    pub weight_decay: f32,
    /// Decay of the first moment.
    pub adam_beta1: f32,
    /// Decay of the second moment.
    pub adam_beta2: f32,
    /// Added to the root of the second moment.
    pub adam_epsilon: f32,
    /// Largest norm of the gradient; 0 never clips.
    pub max_grad_norm: f64,
}

impl Default for OptimizerSettings {
    fn default() -> OptimizerSettings {
        OptimizerSettings {
            optim: Optim::Adamw,
            learning_rate: 1e-5,
            lr_scheduler_type: Schedule::Cosine,
            min_lr_rate: 0.1,
            warmup_steps: 0,
            warmup_ratio: 0.0,
            weight_decay: 0.1,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
        }
    }
}

/// AdamW by how it stores its moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Optim {
    /// All moments in f32.
    Adamw,
    /// Those of matrices in 8 bits (see [`crate::ops::adamw::Moment`]), those of norms and biases in f32.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
}

impl Optim {
    /// Whether a parameter's moments are stored in 8 bits.
    pub fn is_8bit(self, role: Role) -> bool {
        self == Optim::Adamw8bit && role == Role::Matrix
    }
}

/// Course of the learning rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to zero.
    Cosine,
    /// Half a cosine down to `min_lr_rate`.
    CosineWithMinLr,
    /// Straight down to zero.
    Linear,
    /// Stays at the peak: transformers' `constant_with_warmup`.
    #[serde(alias = "constant_with_warmup")]
    Constant,
}

impl OptimizerSettings {
    /// The learning rate of update `update` (from 0) of `updates`, as transformers' `get_scheduler` has it.
    pub fn learning_rate_at(&self, update: u64, updates: u64) -> f64 {
        let warmup = match self.warmup_steps {
            0 => (self.warmup_ratio * updates as f64).ceil() as u64,
            steps => steps,
        };
        if update < warmup {
            return self.learning_rate * (update as f64 / warmup as f64);
        }
        let progress = (update - warmup) as f64 / updates.saturating_sub(warmup).max(1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
        self.learning_rate
            * match self.lr_scheduler_type {
                Schedule::Cosine => cosine,
                Schedule::CosineWithMinLr => self.min_lr_rate + (1.0 - self.min_lr_rate) * cosine,
                Schedule::Linear => 1.0 - progress.min(1.0),
                Schedule::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_update_has_the_learning_rate_of_transformers() {
        let golden = include_str!("../../tests/golden/schedule/learning_rates.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 50);
        for case in cases {
            let mut settings = OptimizerSettings {
                learning_rate: golden["learning_rate"].as_f64().unwrap(),
                min_lr_rate: golden["min_lr_rate"].as_f64().unwrap(),
                lr_scheduler_type: serde_json::from_value(case["schedule"].clone()).unwrap(),
                ..OptimizerSettings::default()
            };
            match case["warmup"].as_u64() {
                Some(updates) => settings.warmup_steps = updates,
                None => settings.warmup_ratio = case["warmup"].as_f64().unwrap(),
            }
            let rates: Vec<f64> = case["rates"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
            for (update, wanted) in rates.iter().enumerate() {
                let found = settings.learning_rate_at(update as u64, rates.len() as u64);
                let what =
                    format!("{} warm-up {} update {update} of {}", case["schedule"], case["warmup"], rates.len());
                assert!((found - wanted).abs() <= 1e-12 * settings.learning_rate, "{what}: {found}, not {wanted}");
            }
        }
    }
}
