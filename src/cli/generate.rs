//! `thyme-engine generate`: the answer to one question, streamed to the terminal; tools run on the way.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::device::Device;
use super::inference_session::{InferenceSession, NO_ENVIRONMENT, Room, check_environment};
use super::jsonl::{print, print_untrusted};
use super::loaded_checkpoint::LoadedCheckpoint;
use super::sampling::SamplingArguments;
use crate::engine::speculation::Speculation;
use crate::prompt::image::PIXELS_MAX;
use crate::prompt::{ImageSource, Message, Part, PictureSize};
use crate::rollout::Update;
use crate::rollout::registry::{DEFAULT_ENVIRONMENT, Registry};
use crate::rollout::task::{Task, TaskPrompt};
use crate::rollout::trajectory::{Call, End};
use crate::sandbox::save_new;

/// Bytes of keys and values that are kept at most, unless the question alone needs more.
const CACHE_BYTES: usize = 4 << 30;

const EXAMPLES: &str = r#"Examples:
  thyme-engine generate --model recipes/tiny-sft --image photo.png "What digit is on the red plate?"
  thyme-engine generate --model recipes/tiny-sft --image photo.png --env none --temperature 0 "What digit is on the red plate?"

If images are given, the model may run code on them (--env none forbids it), and each crop that it makes is saved. Sampling defaults come
from the checkpoint's generation_config.json. Many questions at once: thyme-engine batch --help"#;

/// Let a model answer a question, and watch it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long, value_name = "DIR")]
    model: String,
    /// A picture that the question is about; may be given several times.
    #[arg(long, value_name = "X")]
    image: Vec<PathBuf>,
    /// Show it at so many pixels at least, whatever the checkpoint says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PIXELS_MAX))]
    min_pixels: Option<u64>,
    /// Show it at so many pixels at most, whatever the checkpoint says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PIXELS_MAX))]
    max_pixels: Option<u64>,
    /// The question; its answer is streamed to the terminal.
    question: String,
    /// The system message; without it the environment's own.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The folder for crops.
    #[arg(long, value_name = "DIR", default_value = "crops")]
    crops: PathBuf,
    /// Run tools as this environment does; `none` runs none. think_with_code where there is a picture.
    #[arg(long = "env", value_name = "NAME")]
    environment: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Whether to draft what comes next from what was said before, and check several tokens in a step; it changes no token.
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    speculation: Speculation,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Runs the command.
pub fn run(arguments: &GenerateArguments, registry: &Registry) -> anyhow::Result<()> {
    // A picture on the terminal is there to be looked at closely.
    let default = if arguments.image.is_empty() { NO_ENVIRONMENT } else { DEFAULT_ENVIRONMENT };
    let environment = arguments.environment.as_deref().unwrap_or(default);
    check_environment(environment, registry)?;
    let checkpoint = LoadedCheckpoint::open(&arguments.model, arguments.device)?;
    let session = InferenceSession::new(checkpoint, &arguments.sampling, environment, 1, registry)?;
    arguments.stream(&session)
}

impl GenerateArguments {
    fn stream(&self, session: &InferenceSession) -> anyhow::Result<()> {
        let task = self.task(session)?;
        let mut crops = Crops { folder: &self.crops, saved: 0 };
        let (mut said, mut end) = (Ok(()), None);
        let mut watch = |update: Update<'_>| {
            let step = match update {
                Update::Text { text, .. } => print_untrusted(text).map(drop),
                Update::Observed { calls, text, .. } => crops.show(calls, text),
                Update::Finished(trajectory) => {
                    end = Some(trajectory.end);
                    Ok(())
                }
            };
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    said = Err(error);
                    ControlFlow::Break(())
                }
            }
        };
        // The environment makes the prompt; it may take the whole context.
        let context = session.checkpoint.model.config.context_tokens;
        let room = Room { sequences: 1, cache_bytes: CACHE_BYTES, speculation: self.speculation };
        session.roll_out(&std::slice::from_ref(&task), 0, &[context], room, &mut watch)?;
        said?;
        print("\n")?;
        match end {
            Some(End::TaskFailed(reason) | End::ToolFailed(reason)) => anyhow::bail!("{reason}"),
            Some(End::PromptTooLong { needed, limit }) => anyhow::bail!(
                "the prompt and its answer take {needed} tokens of {limit}; give a smaller image or a shorter question"
            ),
            Some(end) if end.is_truncated() => eprintln!("(cut off: {}; --max-tokens gives more)", end.name()),
            _ => {}
        }
        Ok(())
    }

    /// The question as the environment puts it, or plainly under the given system message.
    fn task(&self, session: &InferenceSession) -> anyhow::Result<Task> {
        let (min_pixels, max_pixels) = (self.min_pixels, self.max_pixels);
        let size = min_pixels.or(max_pixels).map(|_| PictureSize::Limits { min_pixels, max_pixels });
        let images: Vec<ImageSource> =
            self.image.iter().cloned().map(|path| ImageSource::Path(path).sized(size)).collect();
        for source in &images {
            source.load(Path::new(""))?;
        }
        let mut messages = Vec::new();
        if !session.has_tools || self.system.is_some() {
            messages.extend(self.system.as_ref().map(|system| Message::text("system", system)));
            // With tools as Thyme's data has it: the image, a new line, the question.
            let text = if session.has_tools { format!("\n{}", self.question) } else { self.question.clone() };
            let parts = images.iter().cloned().map(Part::Image).chain([Part::Text(text)]);
            messages.push(Message::new("user", parts.collect()));
        }
        let prompt = TaskPrompt::of_messages(messages);
        Ok(Task { prompt, question: self.question.clone(), images, ..Task::default() })
    }
}

/// Where the terminal form puts what tools made.
struct Crops<'a> {
    folder: &'a Path,
    /// The number of the last.
    saved: usize,
}

impl Crops<'_> {
    /// Shows an observation and says where each of its images was saved.
    fn show(&mut self, calls: &[Call], text: &str) -> anyhow::Result<()> {
        print_untrusted(&format!("\n{text}\n"))?;
        for image in calls.iter().flat_map(|call| &call.output.images) {
            let (path, number) = save_new(&image.pixels, self.folder, "image", self.saved + 1)
                .context("cannot save a crop; choose another folder with --crops")?;
            self.saved = number;
            let (width, height) = image.pixels.dimensions();
            print(&format!("[{width}x{height} image saved as {}]\n", path.display()))?;
        }
        Ok(())
    }
}
