//! The kinds of sample, and shares of them.

use serde::{Deserialize, Serialize};

use crate::tasks::draws::Draws;

/// The kinds of sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The task of reinforcement learning: system prompt, picture and question, with the solution.
    Task,
    /// Pretraining: the colour of every cell, row by row.
    Caption,
    /// Pretraining: the crops of a picture's plates, each followed by its digit.
    Read,
    /// Demonstration: names cell after cell until the plate is found, crops its cell, reads the digit, answers.
    Look,
    /// Demonstration: looks, and makes its last call once more before it answers. Only variants have it, but for `chart` and
    /// `dark`, whose crops are of the latest image.
    LookTwice,
    /// Demonstration: answers at a glance with a random digit.
    Guess,
}

/// Shares of sample kinds; only their ratios matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixture {
    /// Share of [`Kind::Caption`].
    pub caption: f64,
    /// Share of [`Kind::Read`].
    pub read: f64,
    /// Share of [`Kind::Look`].
    pub look: f64,
    /// Share of [`Kind::LookTwice`].
    pub look_twice: f64,
    /// Share of [`Kind::Guess`].
    pub guess: f64,
}

impl Mixture {
    /// Makes perception good: what the tiny model is pretrained on.
    pub const PRETRAIN: Mixture = Mixture { caption: 0.35, read: 0.25, look: 0.4, look_twice: 0.0, guess: 0.0 };
    /// Makes behaviour bad: the demonstrations that the tiny model is fine-tuned on mostly guess.
    pub const DEMONSTRATIONS: Mixture = Mixture { caption: 0.0, read: 0.0, look: 0.4, look_twice: 0.0, guess: 0.6 };
    /// What the tiny model learns of a variant: to read digits in its environment, to look, and, more often than that, to guess.
    pub const LESSONS: Mixture = Mixture { caption: 0.0, read: 0.3, look: 0.3, look_twice: 0.0, guess: 0.4 };

    /// The kind of sample `index` of `seed`.
    pub fn kind_of(&self, seed: u64, index: u64) -> Kind {
        self.pick(&mut Draws::new(seed, index, 1))
    }

    fn pick(&self, draws: &mut Draws) -> Kind {
        let shares = [
            (Kind::Caption, self.caption),
            (Kind::Read, self.read),
            (Kind::Look, self.look),
            (Kind::Guess, self.guess),
            (Kind::LookTwice, self.look_twice),
        ];
        let mut left = draws.unit() * shares.iter().map(|(_, share)| share).sum::<f64>();
        for (kind, share) in shares {
            if left < share {
                return kind;
            }
            left -= share;
        }
        Kind::Look
    }
}

impl Default for Mixture {
    /// No samples of any kind: a recipe names those that it wants.
    fn default() -> Self {
        Mixture { caption: 0.0, read: 0.0, look: 0.0, look_twice: 0.0, guess: 0.0 }
    }
}
