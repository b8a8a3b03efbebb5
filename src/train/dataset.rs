//! Where examples come from, by number: the same number gives the same example in every run of a recipe.

use std::path::PathBuf;

use crate::ops::sample::philox_uniform;
use crate::prompt::image::decode_file;
use crate::prompt::{ImageError, PromptError};
use crate::recipe::{DataSettings, Method};
use crate::rollout::environment::Task;
use crate::tasks::jsonl::{DataError, Record, read};
use crate::tasks::needle::{Kind, Mixture, Split, example, mixed};
use crate::tasks::{Example, Role};

/// An endless source of examples.
#[derive(Debug)]
pub enum Dataset {
    /// The built-in task.
    Needle {
        /// Which scenes.
        split: Split,
        /// Seed of the scenes.
        seed: u64,
        /// Shares of demonstrations; RL tasks where absent.
        mixture: Option<Mixture>,
    },
    /// Lines of files, in a new random order each epoch.
    Records {
        /// The lines.
        records: Vec<Record>,
        /// Seed of the order; file order where absent.
        shuffle: Option<u64>,
    },
}

/// Why there is no example.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A picture.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An example that cannot be tokenised.
    #[error("{example}: {source}; mend it or take it out")]
    Example {
        /// Which one.
        example: String,
        /// What is wrong.
        source: PromptError,
    },
    /// An example that the model has no room for.
    #[error(
        "{example} has {tokens} tokens, the model takes {limit} (max_position_embeddings): shorten it, or lower `model.max_pixels`"
    )]
    TooLong {
        /// Which one.
        example: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens possible.
        limit: usize,
    },
    /// A file of the other method's form.
    #[error("line {line} of {path} is not {expected}; `method` in the recipe says how the file is used")]
    Form {
        /// The file.
        path: PathBuf,
        /// Its line among the examples, from 1.
        line: usize,
        /// What the method needs.
        expected: &'static str,
    },
}

impl Dataset {
    /// Opens what the recipe names, for training.
    pub fn open(data: &DataSettings, method: Method, seed: u64) -> Result<Dataset, DatasetError> {
        if let Some(needle) = &data.needle {
            let mixture = (method == Method::Sft).then(|| needle.mixture.unwrap_or(Mixture::DEMONSTRATIONS));
            return Ok(Dataset::Needle { split: Split::Train, seed: needle.seed.unwrap_or(seed), mixture });
        }
        Dataset::from_files(&data.files, method, data.shuffle.0.then_some(seed))
    }

    /// Reads files of one form.
    pub fn from_files(files: &[PathBuf], method: Method, shuffle: Option<u64>) -> Result<Dataset, DatasetError> {
        let mut records = Vec::new();
        for path in files {
            for (i, record) in read(path)?.into_iter().enumerate() {
                let demonstrates = record.messages.last().is_some_and(|m| m.role == Role::Assistant);
                let expected = match method {
                    Method::Sft if !demonstrates => Some("a demonstration that ends with the assistant's message"),
                    Method::Grpo if demonstrates || record.solution.is_none() => Some("a task with a `solution`"),
                    _ => None,
                };
                if let Some(expected) = expected {
                    return Err(DatasetError::Form { path: path.clone(), line: i + 1, expected });
                }
                records.push(record);
            }
        }
        Ok(Dataset::Records { records, shuffle })
    }

    /// Held-out tasks of the built-in task.
    pub fn held_out_needle() -> Dataset {
        Dataset::Needle { split: Split::HeldOut, seed: 0, mixture: None }
    }

    /// Number of different examples; `None` where there is no end.
    pub fn len(&self) -> Option<usize> {
        match self {
            Dataset::Needle { .. } => None,
            Dataset::Records { records, .. } => Some(records.len()),
        }
    }

    /// Whether there is nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Task `number`; pictures of files are decoded when it is opened.
    pub fn task(&self, number: u64) -> Result<Task, DatasetError> {
        let task = match self {
            Dataset::Needle { .. } => Task::of_example(self.example(number)?),
            Dataset::Records { records, shuffle } => Task::of_record(record(records, *shuffle, number).clone()),
        };
        Ok(task.map_err(PromptError::from)?)
    }

    /// Names example `number` for messages: by its pictures and its question.
    pub fn name_of(&self, number: u64) -> String {
        match self {
            Dataset::Needle { seed, .. } => format!("needle example {number} of seed {seed}"),
            Dataset::Records { records, shuffle } => {
                let record = record(records, *shuffle, number);
                let images: Vec<String> = record.images.iter().map(|path| path.display().to_string()).collect();
                let question: String = record.question.as_deref().unwrap_or_default().chars().take(60).collect();
                format!("the example {question:?} (images: {})", images.join(", "))
            }
        }
    }

    /// Example `number`, pictures decoded.
    pub fn example(&self, number: u64) -> Result<Example, DatasetError> {
        match self {
            Dataset::Needle { split, seed, mixture } => Ok(match mixture {
                Some(mixture) => mixed(mixture, *split, *seed, number),
                None => example(Kind::Task, *split, *seed, number),
            }),
            Dataset::Records { records, shuffle } => {
                let record = record(records, *shuffle, number);
                let images = record.images.iter().map(|path| decode_file(path)).collect::<Result<_, _>>()?;
                Ok(record.clone().with_images(images))
            }
        }
    }
}

/// The line that example `number` is.
fn record(records: &[Record], shuffle: Option<u64>, number: u64) -> &Record {
    let (epoch, place) = (number / records.len() as u64, (number % records.len() as u64) as usize);
    &records[shuffle.map_or(place, |seed| shuffled(place, records.len(), seed, epoch))]
}

/// Where `place` goes in epoch `epoch`'s order of `count` (a permutation by sorting random keys).
fn shuffled(place: usize, count: usize, seed: u64, epoch: u64) -> usize {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| philox_uniform(seed, epoch, a as u64).total_cmp(&philox_uniform(seed, epoch, b as u64)));
    order[place]
}
