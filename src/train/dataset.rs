//! Where examples come from, by number: the same number gives the same example in every run of a recipe.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

pub use super::dataset_error::DatasetError;
use super::epoch_order::EpochOrder;
use super::sources::Shares;
use crate::prompt::image::decode_file;
use crate::prompt::{ImageError, PromptError};
use crate::recipe::{DataSettings, DataSource, Method, Recipe};
use crate::rollout::task::Task;
use crate::tasks::jsonl::{self, Record};
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
    /// That in which they are drawn.
    order: EpochOrder,
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
            let mut records = Records::read(&data.files, method, data.shuffle.then_some(seed))?;
            if data.curriculum.as_ref().is_some_and(|curriculum| curriculum.easy_first) {
                records.easy_first()?;
            }
            return Ok(Dataset::of_records(records));
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
        Dataset::of_records(Records { records: vec![record], order: EpochOrder::new(1, None) })
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

    /// The row of files that example `number` is, counted from 0 over all files; `None` where rows have no one order.
    pub fn row_of(&self, number: u64) -> Option<usize> {
        match self {
            Dataset::Records { sources, .. } if sources.len() == 1 => Some(sources[0].order.row(number)),
            Dataset::Records { .. } | Dataset::Needle { .. } => None,
        }
    }

    /// What the column `pass_rate` of each row says, in the order of [`Dataset::row_of`]; `None` where it says nothing.
    ///
    /// # Errors
    /// [`DatasetError::PassRate`] where it is no pass rate.
    pub fn pass_rates(&self) -> Result<Vec<Option<f64>>, DatasetError> {
        match self {
            Dataset::Needle { .. } => Ok(Vec::new()),
            Dataset::Records { sources, .. } => {
                sources.iter().flat_map(|source| &source.records).map(pass_rate).collect()
            }
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
        let order = EpochOrder::new(records.len(), shuffle);
        Ok(Records { records, order })
    }

    /// Sorts the first epoch by pass rates.
    fn easy_first(&mut self) -> Result<(), DatasetError> {
        let missing = "`data.curriculum.easy_first` sorts by the column `pass_rate`, and the row has none: `eval --write-pass-rates` writes it";
        let known = |record: &Record| {
            pass_rate(record)?.ok_or_else(|| DatasetError::PassRate {
                path: record.file.to_path_buf(),
                line: record.line,
                problem: missing.to_owned(),
            })
        };
        let pass_rates: Vec<f64> = self.records.iter().map(known).collect::<Result<_, _>>()?;
        self.order = self.order.clone().with_largest_first(&pass_rates);
        Ok(())
    }

    /// The line that example `number` of this source is.
    fn record(&self, number: u64) -> &Record {
        &self.records[self.order.row(number)]
    }
}

/// The column that says how many of a model's answers to a row were right.
pub const PASS_RATE: &str = "pass_rate";

fn pass_rate(record: &Record) -> Result<Option<f64>, DatasetError> {
    let value = match record.columns.get(PASS_RATE) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let rate = value.as_f64().filter(|rate| (0.0..=1.0).contains(rate));
    rate.map(Some).ok_or_else(|| DatasetError::PassRate {
        path: record.file.to_path_buf(),
        line: record.line,
        problem: format!("`{PASS_RATE}` is {value}: give a number from 0 to 1, or null where it was not measured"),
    })
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
