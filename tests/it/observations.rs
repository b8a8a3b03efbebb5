//! Observations as the model meets them: rollouts and demonstrations give them the same tokens, over the shipped vocabulary and over the
//! released one. `THYME_QWEN_TOKENIZER=FOLDER` adds the whole of that (tools/qwen_tokenizer.py makes it) to the part of it that is kept here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::TrainTurns;
use thyme_engine::rollout::environment::{Observation, ObservationPart};
use thyme_engine::rollout::environments::think_with_code::{
    OUTPUT_CLOSE, OUTPUT_OPEN, ThinkWithCode, ThinkWithCodeSettings,
};
use thyme_engine::rollout::generator::Scripted;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};
use thyme_engine::rollout::tool_set::ToolSet;
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::rollout::{RolloutSettings, run};
use thyme_engine::tasks::{Example, Message, Role};
use thyme_engine::train::demonstration::sample;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A prompt side with the tokenizer of a folder; everything else is the shipped model's.
fn processor(tokenizer: &Path) -> Processor {
    let folder = tempfile::tempdir().unwrap();
    for name in ["chat_template.jinja", "preprocessor_config.json"] {
        std::fs::copy(root().join("recipes/tiny").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::copy(tokenizer.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    Processor::open(folder.path()).unwrap()
}

/// Folders whose tokenizers have the ids of the released vocabulary.
fn released() -> Vec<PathBuf> {
    let whole = std::env::var_os("THYME_QWEN_TOKENIZER").map(PathBuf::from);
    [root().join("tests/golden/prompt/observations")].into_iter().chain(whole).collect()
}

/// Outputs of programs, and the ids of each observation in the released vocabulary.
fn cases() -> Vec<(String, Vec<u32>)> {
    let text = std::fs::read_to_string(root().join("tests/golden/prompt/observations/observations.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let case = |case: &serde_json::Value| {
        let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        (case["output"].as_str().unwrap().to_owned(), ids)
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

/// Gives the outputs one after the other; of each the picture, if it has one.
struct Says(Vec<(String, Option<RgbImage>)>);

impl Tool for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        let session = || -> Box<dyn ToolSession> { Box::new(Saying(self.0.clone().into_iter().collect())) };
        Ok((0..sessions).map(|_| session()).collect())
    }
}

struct Saying(std::collections::VecDeque<(String, Option<RgbImage>)>);

impl ToolSession for Saying {
    fn run(&mut self, _: &str, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let (text, picture) = self.0.pop_front().expect("an output for each call");
        let image = |pixels| ToolImage {
            name: "image-1.png".into(),
            label: "crop.png".into(),
            pixels: Arc::new(pixels),
            widened: None,
        };
        Ok(ToolOutput { images: picture.into_iter().map(image).collect(), ..ToolOutput::text(CallStatus::Ok, text) })
    }
}

const SYSTEM: &str = "You are a helpful assistant.";
const QUESTION: &str = "What is it?";

/// Plays a rollout in which the model calls the tool once for each output, and then answers.
fn play(processor: &Processor, outputs: &[(String, Option<RgbImage>)]) -> Trajectory {
    let count = outputs.len();
    let settings = ThinkWithCodeSettings { max_code_runs: count, max_total_tokens: 1 << 20, ..Default::default() };
    let environment = ThinkWithCode::new(settings, ToolSet::new(vec![Arc::new(Says(outputs.to_vec()))]));
    let example = Example {
        messages: vec![Message::new(Role::System, SYSTEM), Message::new(Role::User, QUESTION)],
        images: vec![],
        solution: Some("7".into()),
        question: Some(QUESTION.into()),
        tools: None,
    };
    let pieces = (0..count).map(own_piece).chain([" done</think>\n<answer>7</answer>"]);
    let script = pieces.flat_map(|piece| processor.tokenizer().encode(piece).unwrap()).collect::<Vec<u32>>();
    let tokens: Vec<Vec<u8>> =
        (0..processor.tokenizer().len() as u32).map(|id| processor.tokenizer().token_bytes(id).to_vec()).collect();
    let mut generator =
        Scripted::new([(0, script)], processor.special_ids().im_end, move |id| tokens[id as usize].clone());
    let tasks = [Task::of_example(example).unwrap()];
    let groups = run(&mut generator, processor, &environment, &tasks, &RolloutSettings::default()).unwrap();
    groups.into_iter().next().unwrap().trajectories.remove(0)
}

/// What the model says before its call of that number.
fn own_piece(call: usize) -> &'static str {
    if call == 0 { "<think>Look.<code>print(1)</code>" } else { " so it is. <code>print(1)</code>" }
}

/// The same conversation as a demonstration: its ids, and which are learned.
fn demonstrate(processor: &Processor, text: String, images: Vec<RgbImage>) -> (Vec<u32>, Vec<bool>) {
    let messages = vec![
        Message::new(Role::System, SYSTEM),
        Message::new(Role::User, QUESTION),
        Message::new(Role::Assistant, text),
    ];
    let sample =
        sample(processor, &Example { messages, images, solution: None, question: None, tools: None }, TrainTurns::All)
            .unwrap();
    (sample.ids, sample.trained)
}

/// A demonstration of what a rollout wrote has the rollout's tokens, and learns those that the model sampled.
fn assert_alike(processor: &Processor, outputs: &[(String, Option<RgbImage>)]) {
    let trajectory = play(processor, outputs);
    assert_eq!((&trajectory.end, trajectory.calls.len()), (&End::Answered, outputs.len()));
    let pictures = outputs.iter().filter_map(|(_, picture)| picture.clone()).collect();
    let (mut ids, mut trained) = demonstrate(processor, trajectory.text(), pictures);
    assert_eq!((ids.pop(), trained.pop()), (Some(processor.special_ids().im_end), Some(true)));
    for (place, (one, other)) in trajectory.token_ids.iter().zip(&ids).enumerate() {
        assert_eq!(one, other, "token {place} of {outputs:?}");
    }
    assert_eq!(trajectory.token_ids.len(), ids.len());
    let own: Vec<bool> = trajectory.sampled.iter().map(Option::is_some).collect();
    assert_eq!(own, trained, "{outputs:?}");
}

#[test]
fn a_demonstration_has_the_tokens_of_the_rollout_that_it_shows() {
    for folder in
        [root().join("recipes/tiny"), root().join("tests/golden/prompt/checkpoint")].into_iter().chain(released())
    {
        let processor = processor(&folder);
        let texts: Vec<(String, Option<RgbImage>)> = cases().into_iter().map(|(output, _)| (output, None)).collect();
        for text in &texts {
            assert_alike(&processor, std::slice::from_ref(text));
        }
        assert_alike(&processor, &texts);
        let picture = |side| Some(RgbImage::new(side, 56));
        assert_alike(&processor, &[("here:".into(), picture(112)), (String::new(), picture(56)), ("7".into(), None)]);
    }
}

#[test]
fn observations_are_tokenised_piece_by_piece_as_the_released_vocabulary_has_them() {
    for folder in released() {
        let processor = processor(&folder);
        for (output, ids) in cases() {
            let parts = [ObservationPart::Text(output.clone())];
            let observation = Observation::new(&processor, (OUTPUT_OPEN, OUTPUT_CLOSE), parts).unwrap();
            assert_eq!(observation.token_ids, ids, "{output:?} in {}", folder.display());
            assert_eq!(observation.text, format!("{OUTPUT_OPEN}{output}{OUTPUT_CLOSE}"));
        }
    }
}

#[test]
fn no_added_token_comes_of_what_a_program_prints() {
    for folder in [root().join("recipes/tiny")].into_iter().chain(released()) {
        let processor = processor(&folder);
        let tokenizer = processor.tokenizer();
        let added: Vec<String> = {
            let text = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
            let file: serde_json::Value = serde_json::from_str(&text).unwrap();
            let tokens = file["added_tokens"].as_array().unwrap().iter();
            tokens.map(|token| token["content"].as_str().unwrap().to_owned()).collect()
        };
        assert!(added.len() >= 14);
        for token in &added {
            let id = tokenizer.token_id(token).unwrap();
            for text in [token.clone(), format!("a{token}b"), format!("<{token}>\n"), token.repeat(3)] {
                let ids = tokenizer.encode_plain(&text).unwrap();
                assert!(!ids.contains(&id), "{text:?} acts as {token}");
                assert_eq!(tokenizer.decode(&ids, false), text);
                let (ids, trained) = demonstrate(&processor, format!("x{OUTPUT_OPEN}{text}{OUTPUT_CLOSE}y"), vec![]);
                let observed = (0..ids.len()).filter(|&place| !trained[place]).map(|place| ids[place]);
                let prompt = demonstrate(&processor, "x".into(), vec![]).0;
                let in_prompt = prompt.iter().take(prompt.len() - 1).filter(|&&other| other == id).count();
                assert_eq!(
                    observed.filter(|&other| other == id).count(),
                    in_prompt,
                    "{text:?} acts in a demonstration"
                );
            }
        }
    }
}
