//! A user's own reward in a Python file: `reward(*, images, processed_images, question, reasoning, answer, solution, columns)`, of which it takes
//! what it names. What goes wrong is `Unscored`, with file and line.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::json;

use crate::rollout::python_file::{PythonFile, PythonFileSettings};
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::sandbox::{Arguments, FileKind};

/// The reward. It starts when it is told to, or first asked.
pub struct PythonFileReward {
    name: &'static str,
    settings: PythonFileSettings,
    started: OnceLock<Result<Started, String>>,
}

struct Started {
    file: PythonFile,
    /// Whether it takes the images of the task, and those of its tools.
    takes_images: (bool, bool),
    takes_reasoning: bool,
}

/// What the file says of itself.
#[derive(Deserialize)]
struct Said {
    /// The names of the arguments that it takes.
    takes: Vec<String>,
}

impl PythonFileReward {
    /// A reward that is not started.
    ///
    /// # Errors
    /// When a value cannot be, or a file is not there.
    pub fn new(name: &'static str, settings: PythonFileSettings) -> Result<Self, String> {
        settings.check()?;
        Ok(Self { name, settings, started: OnceLock::new() })
    }

    fn started(&self) -> Result<&Started, String> {
        let start = || {
            let (file, said) = PythonFile::start(&self.settings, FileKind::Reward)?;
            let Said { takes } = serde_json::from_value(said).map_err(|error| error.to_string())?;
            let has = |name: &str| takes.iter().any(|taken| taken == name);
            let takes_images = (has("images"), has("processed_images"));
            Ok(Started { file, takes_images, takes_reasoning: has("reasoning") })
        };
        self.started.get_or_init(start).as_ref().map_err(Clone::clone)
    }
}

impl Started {
    fn score(&self, view: &View<'_>) -> Result<Score, String> {
        let task_images = view.images.task_images();
        let pixels = |(index, is_taken): (usize, bool)| {
            is_taken.then(|| view.images.get(index).map_err(|missing| missing.to_string())).transpose()
        };
        let (of_task, of_tools) = self.takes_images;
        let taken = (0..view.images.len()).map(|index| (index, if index < task_images { of_task } else { of_tools }));
        let values = json!({
            "question": view.question,
            "reasoning": view.thought,
            "answer": view.answer,
            "solution": view.solution.to_json(),
            "columns": view.columns.cloned().unwrap_or_default(),
        });
        let arguments = Arguments { values, images: taken.map(pixels).collect::<Result<_, _>>()?, task_images };
        match self.file.call(&arguments)? {
            Err(error) => Err(error.with_place(self.file.path())),
            Ok(returned) if returned.value.is_null() => {
                Err(format!("{}: `reward` returned None", self.file.path().display()))
            }
            Ok(returned) => returned.value.as_f64().map(Score::Value).ok_or_else(|| {
                format!(
                    "{}: its process answered with {}, which is no number",
                    self.file.path().display(),
                    returned.value
                )
            }),
        }
    }
}

impl Reward for PythonFileReward {
    fn start(&self) -> Result<(), String> {
        self.started().map(drop)
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.started().map(|started| started.file.versions(self.name).into()).unwrap_or_default()
    }

    fn needs(&self) -> Needs {
        match self.started.get() {
            Some(Ok(Started { takes_reasoning: false, .. })) => Needs::Answer,
            _ => Needs::Text,
        }
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let score = |view: &&View<'_>| self.started()?.score(view);
        group.iter().map(|view| score(view).unwrap_or_else(Score::Unscored)).collect()
    }
}
