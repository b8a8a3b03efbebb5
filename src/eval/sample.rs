//! One answered task as a page that a person can open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value, json};

use super::columns_of;
use crate::rollout::reward::Score;
use crate::rollout::reward_set::Scores;
use crate::rollout::task::Task;
use crate::rollout::tool::ToolImage;
use crate::rollout::trajectory::{Trajectory, TurnKind};
use crate::sandbox::Widened;
use crate::telemetry::samples::{Block, SampleSheet};

/// Writes `dir/<name>.md` with the question and its pictures, the turns, and what the tool returned, and the pictures beside it.
pub fn write(dir: &Path, name: &str, task: &Task, trajectory: &Trajectory, scores: &Scores) -> io::Result<PathBuf> {
    // A picture that cannot be read any more is left out; the rollout has reported it.
    let pictures: Vec<Arc<RgbImage>> = task.images.iter().filter_map(|image| image.load(&task.folder).ok()).collect();
    let mut blocks = vec![Block::Text { heading: "question", text: &task.question }];
    blocks.extend(pictures.iter().map(|pixels| Block::Image { caption: "picture".to_owned(), pixels }));
    for turn in &trajectory.turns {
        let heading = match turn.kind {
            TurnKind::Thought => "thought",
            TurnKind::Call => "call",
            TurnKind::Observation => "observation",
            TurnKind::Answer => "answer",
        };
        blocks.push(Block::Text { heading, text: &turn.text });
        let shown = trajectory.calls[turn.calls.clone()].iter().flat_map(|call| &call.output.images);
        blocks.extend(shown.map(|image| Block::Image { caption: caption(image), pixels: &image.pixels }));
    }
    let mut facts = vec![
        ("solution", task.solution.to_string()),
        ("end", trajectory.end.name().to_owned()),
        ("reward", shown(&scores.total)),
    ];
    facts.extend(scores.parts.iter().map(|(name, score)| (*name, shown(score))));
    SampleSheet { title: name.to_owned(), facts, blocks }.write(dir, name)
}

/// A line of `samples.jsonl`: what was asked and answered, each reward's score (null where there is none) and why it is missing, the calls
/// with how each went, tokens after the prompt, and the end.
pub fn line(task: &Task, trajectory: &Trajectory, scores: &Scores) -> Value {
    let [values, reasons] = columns_of(&scores.parts);
    let calls: Vec<Value> = trajectory
        .calls
        .iter()
        .map(|call| {
            let mut line = json!({"request": call.request, "status": call.output.status, "images": call.images_shown});
            let shown = call.output.images.iter().enumerate();
            let widened: Vec<Value> = shown
                .filter_map(|(image, shown)| {
                    shown.widened.as_ref().map(|by| json!({"image": image, "from": by.from, "to": by.to}))
                })
                .collect();
            if !widened.is_empty() {
                line["widened"] = widened.into();
            }
            line
        })
        .collect();
    json!({
        "question": task.question, "solution": task.solution.to_json(), "text": trajectory.text(), "scores": values, "unscored": reasons,
        "reward": scores.total.value(), "calls": calls, "tokens": trajectory.completion_tokens(), "end": trajectory.end.name(),
    })
}

/// An image's name, and the boxes where it shows more than the model's crop.
fn caption(image: &ToolImage) -> String {
    match &image.widened {
        None => image.name.clone(),
        Some(Widened { from, to }) => format!("{}, the crop {from:?} widened to {to:?}", image.name),
    }
}

fn shown(score: &Score) -> String {
    match score {
        Score::Value(value) => value.to_string(),
        Score::Unscored(reason) => format!("unscored: {reason}"),
    }
}
