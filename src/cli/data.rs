//! `thyme-engine data`: writes the built-in task as files.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};

use super::jsonl::print;
use crate::tasks::jsonl::{self, NeedleFile};
use crate::tasks::needle::{Mixture, Split, Variant};

/// Write the built-in task as PNG and JSONL files.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine data needle --out needle --count 100 --seed 0")]
pub struct DataArguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Needle(NeedleArguments),
}

/// Pictures with coloured plates, each with a digit too small to read without a crop.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thyme-engine data needle --out needle --count 100 --seed 0
  thyme-engine data needle --out examination --count 256 --seed 0 --split held_out
  thyme-engine data needle --out compare --count 100 --seed 0 --variant compare
  thyme-engine data needle --out demonstrations --count 1000 --seed 0 --kind demonstrations

DIR/data.jsonl holds a sample a line, in Thyme's RL form (messages, images, solution, question) for tasks, else in its SFT form (image,
question, response); pictures are in DIR/images. Training from it equals training from the built-in task.")]
struct NeedleArguments {
    /// Folder to write, made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many samples.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Sample i is a function of the split, this seed and i.
    #[arg(long, value_name = "S")]
    seed: u64,
    /// Scenes to train on, or scenes that no training sees.
    #[arg(long, value_enum, default_value = "train")]
    split: SplitName,
    /// Kind of sample, or a mixture of kinds.
    #[arg(long, value_enum, default_value = "task")]
    kind: KindName,
    /// A harder variant, whose tasks are written. Its demonstrations are made in training, by the recipe's environment.
    #[arg(long, value_name = "NAME", value_parser = variant)]
    variant: Option<Variant>,
}

/// The variant of that name.
pub fn variant(name: &str) -> Result<Variant, String> {
    let known = || Variant::ALL.map(Variant::name).join(", ");
    let found = Variant::ALL.into_iter().find(|variant| variant.name() == name);
    found.ok_or_else(|| format!("there is no variant {name:?}; the variants are: {}", known()))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum SplitName {
    Train,
    HeldOut,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum KindName {
    /// Questions with solutions, for reinforcement learning.
    Task,
    /// Demonstrations: the colour of every cell.
    Caption,
    /// Demonstrations: reads crops.
    Read,
    /// Demonstrations: crops, reads, answers.
    Look,
    /// Demonstrations: answers without looking.
    Guess,
    /// The mixture that teaches perception.
    Pretrain,
    /// The mixture of looking and guessing.
    Demonstrations,
}

impl SplitName {
    fn split(self) -> Split {
        match self {
            SplitName::Train => Split::Train,
            SplitName::HeldOut => Split::HeldOut,
        }
    }
}

impl KindName {
    fn file(self, variant: Option<Variant>) -> anyhow::Result<NeedleFile> {
        if let (Some(variant), false) = (variant, matches!(self, KindName::Task)) {
            bail!(
                "--kind is not `task`, and of the variant {:?} only tasks are written: a recipe of `method = \"sft\"` with `data.needle.variant` has its \
                 environment make the demonstrations",
                variant.name()
            );
        }
        let none = Mixture::default();
        Ok(NeedleFile::Samples(match self {
            KindName::Task => return Ok(NeedleFile::Tasks(variant)),
            KindName::Caption => Mixture { caption: 1.0, ..none },
            KindName::Read => Mixture { read: 1.0, ..none },
            KindName::Look => Mixture { look: 1.0, ..none },
            KindName::Guess => Mixture { guess: 1.0, ..none },
            KindName::Pretrain => Mixture::PRETRAIN,
            KindName::Demonstrations => Mixture::DEMONSTRATIONS,
        }))
    }
}

/// Runs the command.
pub fn run(arguments: DataArguments) -> anyhow::Result<()> {
    let Task::Needle(needle) = arguments.task;
    let (file, split) = (needle.kind.file(needle.variant)?, needle.split.split());
    let path = jsonl::write_needle(&needle.out, file, needle.count, split, needle.seed)?;
    print(&format!("{} samples in {}\n", needle.count, path.display()))?;
    Ok(())
}
