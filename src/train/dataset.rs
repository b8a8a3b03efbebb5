//! Where examples come from, by number: the same number gives the same example in every run of a recipe.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::sources::Shares;
use crate::ops::sample::philox_uniform;
use crate::prompt::image::decode_file;
use crate::prompt::{ImageError, PromptError};
use crate::recipe::{DataSettings, DataSource, Method, Recipe};
use crate::rollout::task::Task;
use crate::tasks::jsonl::{self, DataError, Record};
use crate::tasks::needle::variants::Lesson;
use crate::tasks::needle::{Kind, Mixture, Split, Variant, example, mixed};
use crate::tasks::{Example, Role, preferences};

/// An endless source of examples.
#[derive(Debug)]
pub enum Dataset {
    /// The built-in task.
    Needle {
        /// A harder variant; the plain task where absent.
        variant: Option<Variant>,
        /// Scenes to train on, or those held out.
        split: Split,
        /// Seed of the scenes.
        seed: u64,
        /// Shares of demonstrations; RL tasks where absent.
        mixture: Option<Mixture>,
    },
    /// Lines of files.
    Records {
        /// Each source with epochs of its own.
        sources: Vec<Records>,
        /// How often each is drawn.
        shares: Shares,
    },
}

/// Two answers to one prompt, each with the whole conversation.
#[derive(Clone, Debug)]
pub struct Preferred {
    /// With the answer that was chosen.
    pub chosen: Example,
    /// With the other.
    pub rejected: Example,
    /// Messages of the prompt.
    pub prompt_messages: usize,
}

/// Lines of files, in a new random order each epoch.
#[derive(Debug)]
pub struct Records {
    /// All lines, in the order of the files; at least one.
    records: Vec<Record>,
    /// Seed of the order; file order where absent.
    shuffle: Option<u64>,
}

/// Why there is no example.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A task's prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An example whose pictures cannot be read, or that cannot be tokenised.
    #[error("{example}: {source}; mend it or take it out")]
    Example {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
        /// What is wrong.
        source: PromptError,
    },
    /// An example that the model has no room for.
    #[error(
        "{example}: it has {tokens} tokens, the model takes {limit} (max_position_embeddings): shorten it, or lower `model.max_pixels`"
    )]
    TooLong {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Positions that the model has.
        limit: usize,
    },
    /// An example with more tokens than the recipe takes.
    #[error(
        "{example}: it has {tokens} tokens, `sft.max_length` is {limit}: raise it, shorten the example, lower `model.max_pixels`, or set \
         `sft.max_length_action` to \"truncate\""
    )]
    MaxLength {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Tokens that the recipe takes.
        limit: usize,
    },
    /// An example of which nothing that is learned is left.
    #[error(
        "{example}: it has {tokens} tokens, and the first {limit}, `sft.max_length`, hold none that is learned: raise it, shorten the \
         example, or lower `model.max_pixels`"
    )]
    NothingLearned {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
        /// Tokens of the whole example.
        tokens: usize,
        /// Tokens that the recipe takes.
        limit: usize,
    },
    /// A preference between two answers that are the same.
    #[error("{example}: both answers are the same to the model; mend it or take it out")]
    SameAnswers {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
    },
    /// A script that the recipe's environment does not take.
    #[error(
        "{example}: the environment {environment:?} does not take its script ({problem}); name in `[environment]` the one that \
         the variant is made for, with limits of tokens that are large enough"
    )]
    Script {
        /// Its name, as [`Dataset::name_of`] gives it.
        example: String,
        /// The environment's name.
        environment: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// A file of the other method's form.
    #[error("{path}:{line}: the row is not {expected}; `method` in the recipe says how the file is used")]
    Form {
        /// The data file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What the method needs.
        expected: &'static str,
    },
}

impl Dataset {
    /// Opens what the recipe names, for training.
    pub fn open(data: &DataSettings, method: Method, seed: u64) -> Result<Dataset, DatasetError> {
        if let Some(needle) = &data.needle {
            let usual = if needle.variant.is_some() { Mixture::LESSONS } else { Mixture::DEMONSTRATIONS };
            let mixture = (method == Method::Sft).then(|| needle.mixture.unwrap_or(usual));
            let (variant, seed) = (needle.variant, needle.seed.unwrap_or(seed));
            return Ok(Dataset::Needle { variant, split: Split::Train, seed, mixture });
        }
        if data.sources.is_empty() {
            return Dataset::from_files(&data.files, method, data.shuffle.then_some(seed));
        }
        let weights: Vec<f64> = data.sources.iter().map(|source| source.weight).collect();
        let numbered = data.sources.iter().zip(0..);
        let read = |(source, number): (&DataSource, u64)| {
            Records::read(&source.files, method, data.shuffle.then_some(seed.wrapping_add(number)))
        };
        Ok(Dataset::Records {
            sources: numbered.map(read).collect::<Result<_, _>>()?,
            shares: Shares::new(&weights, seed),
        })
    }

    /// Reads files of one form.
    pub fn from_files(files: &[PathBuf], method: Method, shuffle: Option<u64>) -> Result<Dataset, DatasetError> {
        Ok(Dataset::of_records(Records::read(files, method, shuffle)?))
    }

    /// One line over and over.
    pub fn of_record(record: Record) -> Dataset {
        Dataset::of_records(Records { records: vec![record], shuffle: None })
    }

    fn of_records(records: Records) -> Dataset {
        Dataset::Records { sources: vec![records], shares: Shares::new(&[1.0], 0) }
    }

    /// Held-out tasks of the built-in task.
    pub fn held_out_needle(variant: Option<Variant>) -> Dataset {
        Dataset::Needle { variant, split: Split::HeldOut, seed: 0, mixture: None }
    }

    /// Whether demonstrations are scripts.
    pub fn has_scripts(&self) -> bool {
        matches!(self, Dataset::Needle { variant: Some(_), .. })
    }

    /// Demonstration `number`, or the script that it is made by.
    ///
    /// # Errors
    /// As [`Dataset::example`].
    pub fn lesson(&self, number: u64) -> Result<Lesson, DatasetError> {
        match self {
            Dataset::Needle { variant: Some(variant), split, seed, mixture: Some(mixture) } => {
                Ok(variant.lesson(mixture.kind_of(*seed, number), *split, *seed, number))
            }
            _ => Ok(Lesson::Told(self.example(number)?)),
        }
    }

    /// Number of different examples; `None` where there is no end.
    pub fn len(&self) -> Option<usize> {
        match self {
            Dataset::Needle { .. } => None,
            Dataset::Records { sources, .. } => Some(sources.iter().map(|source| source.records.len()).sum()),
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
            Dataset::Records { sources, shares } => Task::of_record(record(sources, shares, number).clone()),
        };
        Ok(task.map_err(PromptError::from)?)
    }

    /// Names example `number` for messages: by its file and line, its question and its pictures.
    pub fn name_of(&self, number: u64) -> String {
        match self {
            Dataset::Needle { variant, seed, .. } => {
                let variant = variant.map(|variant| format!(" ({})", variant.name())).unwrap_or_default();
                format!("needle{variant} example {number} of seed {seed}")
            }
            Dataset::Records { sources, shares } => {
                let record = record(sources, shares, number);
                let question: String = record.question.as_deref().unwrap_or_default().chars().take(60).collect();
                let images: String = record.images.iter().map(|path| format!(", {}", path.display())).collect();
                format!("{}:{} ({question:?}{images})", record.file.display(), record.line)
            }
        }
    }

    /// Example `number`, pictures decoded.
    ///
    /// # Errors
    /// [`DatasetError::Example`] where a picture cannot be read.
    pub fn example(&self, number: u64) -> Result<Example, DatasetError> {
        match self {
            Dataset::Needle { variant, split, seed, mixture } => Ok(match (variant, mixture) {
                (Some(variant), _) => variant.task(*split, *seed, number),
                (None, Some(mixture)) => mixed(mixture, *split, *seed, number),
                (None, None) => example(Kind::Task, *split, *seed, number),
            }),
            Dataset::Records { sources, shares } => {
                let record = record(sources, shares, number);
                let images = decode(&record.images).map_err(|source| self.unreadable(number, source))?;
                Ok(record.clone().with_images(images))
            }
        }
    }

    /// Preference `number`, pictures decoded. Of the built-in task, a look at the plate is preferred to a guess.
    ///
    /// # Errors
    /// [`DatasetError::Example`] where a picture cannot be read.
    pub fn preferred(&self, number: u64) -> Result<Preferred, DatasetError> {
        match self {
            Dataset::Needle { split, seed, .. } => {
                let [chosen, rejected] = [Kind::Look, Kind::Guess].map(|kind| example(kind, *split, *seed, number));
                let prompt_messages = chosen.messages.len() - 1;
                Ok(Preferred { chosen, rejected, prompt_messages })
            }
            Dataset::Records { sources, shares } => {
                let chosen = self.example(number)?;
                let preference = record(sources, shares, number).preference.as_ref();
                let preference = preference.expect("every row of a file of preferences has one");
                let images = decode(&preference.rejected_images).map_err(|source| self.unreadable(number, source))?;
                let rejected = Example { messages: preference.rejected.clone(), images, ..chosen.clone() };
                Ok(Preferred { chosen, rejected, prompt_messages: preference.prompt_messages })
            }
        }
    }

    fn unreadable(&self, number: u64, source: ImageError) -> DatasetError {
        DatasetError::Example { example: self.name_of(number), source: source.into() }
    }
}

fn decode(paths: &[PathBuf]) -> Result<Vec<RgbImage>, ImageError> {
    paths.iter().map(|path| decode_file(path)).collect()
}

/// The line that example `number` is.
fn record<'a>(sources: &'a [Records], shares: &Shares, number: u64) -> &'a Record {
    let (source, number) = shares.place(number);
    sources[source].record(number)
}

impl Records {
    fn read(files: &[PathBuf], method: Method, shuffle: Option<u64>) -> Result<Records, DatasetError> {
        let mut records = Vec::new();
        for path in files {
            for row in rows(path, method)? {
                records.push(row?);
            }
        }
        Ok(Records { records, shuffle })
    }

    /// The line that example `number` of this source is.
    fn record(&self, number: u64) -> &Record {
        let lines = self.records.len();
        let (epoch, place) = (number / lines as u64, (number % lines as u64) as usize);
        &self.records[self.shuffle.map_or(place, |seed| shuffled(place, lines, seed, epoch))]
    }
}

/// The rows of a file that `method` learns from, or what is wrong with each.
///
/// # Errors
/// When the file cannot be read.
pub fn rows(path: &Path, method: Method) -> Result<Vec<Result<Record, DatasetError>>, DatasetError> {
    let of_method = |record: Record| {
        let demonstrates = record.messages.last().is_some_and(|message| message.role == Role::Assistant);
        let expected = match method {
            Method::Sft if !demonstrates => "a demonstration that ends with the assistant's message",
            Method::Grpo if demonstrates || record.solution.is_none() => "a task with a `solution`",
            _ => return Ok(record),
        };
        Err(DatasetError::Form { path: path.to_owned(), line: record.line, expected })
    };
    let rows = if method == Method::Dpo { preferences::rows(path)? } else { jsonl::rows(path)? }.into_iter();
    Ok(rows.map(|row| row.map_err(DatasetError::from).and_then(of_method)).collect())
}

/// Rounds of [`shuffled`]; Luby and Rackoff need four for a network that cannot be told from a random permutation.
const ROUNDS: u64 = 6;

/// Where `place` goes in epoch `epoch`'s order of `count`. The order is never written down: a Feistel network permutes the numbers of an even
/// count of bits (Luby and Rackoff 1988), and is applied until the number is one below `count` (Black and Rogaway 2002), which takes less
/// than four times on average.
pub fn shuffled(place: usize, count: usize, seed: u64, epoch: u64) -> usize {
    let half_bits = (u64::BITS - (count as u64 - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half_bits) - 1;
    let mut number = place as u64;
    loop {
        let (mut high, mut low) = (number >> half_bits, number & mask);
        for round in 0..ROUNDS {
            let scattered = philox_uniform(seed, epoch, round << 32 | low) * (mask + 1) as f64;
            (high, low) = (low, high ^ scattered as u64);
        }
        number = high << half_bits | low;
        if number < count as u64 {
            return number as usize;
        }
    }
}

/// The held-out tasks and what they come from.
pub(super) fn held_out_tasks(recipe: &Recipe) -> Result<(Option<Dataset>, Vec<Task>), DatasetError> {
    let settings = &recipe.evaluation;
    let dataset = match settings.files.is_empty() {
        false => Dataset::from_files(&settings.files, Method::Grpo, None)?,
        true => match &recipe.data.needle {
            Some(needle) => Dataset::held_out_needle(needle.variant),
            None => return Ok((None, Vec::new())),
        },
    };
    let count = dataset.len().map_or(settings.tasks, |len| len.min(settings.tasks));
    let tasks = (0..count as u64).map(|number| dataset.task(number)).collect::<Result<_, _>>()?;
    Ok((Some(dataset), tasks))
}
