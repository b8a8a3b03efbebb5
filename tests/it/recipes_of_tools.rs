//! The recipes of `recipes/tool_calling/`, one for each environment that calls tools by name. A row of their tasks has a column `script`: what a model writes,
//! turn by turn. Played through its recipe's environment, each script is a demonstration, and the demonstrations are those that are committed:
//!
//!     THYME_WRITE_DEMONSTRATIONS=1 cargo test --test it recipes_of_tools
//!
//! writes them and their pictures anew, to be read before they are committed. All recipes are run, and their tools counted, by
//!
//!     cargo test --release --test it recipes_of_tools -- --ignored --nocapture

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use thyme_engine::prompt::{ImageSource, Processor};
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::{Method, Recipe};
use thyme_engine::rollout::environment::Environment;
use thyme_engine::rollout::environments::tool_calling::presets::{PRESETS, Preset};
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::rewards::answer::fits;
use thyme_engine::rollout::rewards::equivalence::Verdict;
use thyme_engine::rollout::script::play;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::rollout::tools::openthinkimg::Terminate;
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::demonstration::Demonstration;

use crate::support::command::{succeed, train};

const DEMONSTRATIONS: &str = "demonstrations.jsonl";
const SFT: &str = "sft.toml";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tool_calling")
}

/// The recipe of an environment.
fn recipe(preset: &Preset) -> Recipe {
    let path = folder().join(preset.name).with_extension("toml");
    load(&path, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn processor() -> &'static Processor {
    static PROCESSOR: OnceLock<Processor> = OnceLock::new();
    PROCESSOR.get_or_init(|| Processor::open(&folder().join("../tiny-sft")).unwrap())
}

/// The pictures of the tasks: four squares on white, from the upper left to the lower right.
fn pictures() -> [(&'static str, RgbImage); 2] {
    let [red, green, blue, yellow] = [[220, 30, 30], [20, 160, 60], [30, 60, 210], [200, 160, 10]];
    let squares = |colours: [[u8; 3]; 4]| {
        RgbImage::from_fn(112, 112, |x, y| {
            let inside = |at: u32| at % 52 >= 8 && at < 104;
            let place = (x / 56 + 2 * (y / 56)) as usize;
            Rgb(if inside(x) && inside(y) { colours[place] } else { [255; 3] })
        })
    };
    [
        ("images/squares_1.png", squares([red, green, blue, yellow])),
        ("images/squares_2.png", squares([yellow, blue, green, red])),
    ]
}

/// Plays the script of a task.
fn played(environment: &dyn Environment, task: &Task) -> Trajectory {
    let turns: Vec<String> = serde_json::from_value(task.columns["script"].clone()).unwrap();
    play(processor(), environment, task, &turns).unwrap()
}

/// The tools that must be seen to succeed; `Terminate` ends a sequence and is not run.
fn tools_run(preset: &Preset) -> BTreeSet<String> {
    let tools = preset.default_tools.iter().filter(|name| **name != Terminate::NAME);
    tools.map(|name| (*name).to_owned()).collect()
}

/// What the demonstrations should be: their rows, and the pictures that stand beside them.
#[derive(Default)]
struct Written {
    rows: Vec<Value>,
    pictures: BTreeMap<String, RgbImage>,
}

impl Written {
    /// Plays all tasks of an environment's recipe.
    fn add(&mut self, preset: &Preset) {
        let recipe = recipe(preset);
        let (named, tools) = recipe.environment_and_tools();
        assert_eq!(named.0, preset.name);
        let environment = Registry::default().environment(named, &tools).unwrap();
        let dataset = Dataset::from_files(&recipe.data.files, Method::Grpo, None).unwrap();
        let mut succeeded = BTreeSet::new();
        for number in 0..dataset.len().unwrap() as u64 {
            let (task, name) = (dataset.task(number).unwrap(), dataset.name_of(number));
            let trajectory = played(&*environment, &task);
            assert!(matches!(trajectory.end, End::Answered | End::EndOfTurn), "{name}: {:?}", trajectory.end);
            let said = trajectory.own_text();
            let answer = &said[trajectory.answer.as_ref().expect("a script has an answer").inside.clone()];
            assert!(matches!(fits(answer, &task.solution, &task.question), Verdict::Same), "{name}: {answer}");
            for call in &trajectory.calls {
                assert_eq!(call.output.status, CallStatus::Ok, "{name}: {}", call.output.text);
                succeeded.insert(call.tool.clone());
            }
            self.add_demonstration(&format!("{}_{}", preset.name, number + 1), &trajectory);
        }
        assert_eq!(succeeded, tools_run(preset), "{}", preset.name);
    }

    fn add_demonstration(&mut self, name: &str, trajectory: &Trajectory) {
        let demonstration = Demonstration::of(trajectory, processor().image_settings()).unwrap();
        assert_eq!(demonstration.tools, None, "the prompts describe no tools");
        let mut images = Vec::new();
        for (number, source) in demonstration.images.iter().enumerate() {
            images.push(match source {
                ImageSource::Path(path) => path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned(),
                source => {
                    let made = format!("images/{name}_{number}.png");
                    self.pictures.insert(made.clone(), RgbImage::clone(&source.load(Path::new("")).unwrap()));
                    made
                }
            });
        }
        self.rows.push(json!({"messages": demonstration.messages, "images": images}));
    }

    /// Writes all of it, and takes away pictures that no row has.
    fn write(&self) {
        let rows: String = self.rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(folder().join(DEMONSTRATIONS), rows).unwrap();
        for name in committed_pictures().into_iter().filter(|name| !self.pictures.contains_key(name)) {
            std::fs::remove_file(folder().join(name)).unwrap();
        }
        for (name, picture) in &self.pictures {
            picture.save(folder().join(name)).unwrap();
        }
    }
}

fn committed_pictures() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder().join("images")).unwrap();
    entries.map(|entry| format!("images/{}", entry.unwrap().file_name().to_str().unwrap())).collect()
}

#[test]
fn the_demonstrations_are_what_the_environments_give() {
    let writes = std::env::var_os("THYME_WRITE_DEMONSTRATIONS").is_some();
    let mut written = Written::default();
    for (name, picture) in pictures() {
        if writes {
            std::fs::create_dir_all(folder().join("images")).unwrap();
            picture.save(folder().join(name)).unwrap();
        }
        written.pictures.insert(name.to_owned(), picture);
    }
    for preset in PRESETS {
        written.add(preset);
    }
    if writes {
        written.write();
    }
    let text = std::fs::read_to_string(folder().join(DEMONSTRATIONS)).unwrap();
    let committed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (committed, row) in committed.iter().zip(&written.rows) {
        assert_eq!(committed, row);
    }
    assert_eq!(committed.len(), written.rows.len());
    let named: BTreeSet<String> = written.pictures.keys().cloned().collect();
    assert_eq!(committed_pictures(), named);
    for (name, picture) in &written.pictures {
        assert!(image::open(folder().join(name)).unwrap().to_rgb8() == *picture, "{name} is another picture");
    }
}

/// Runs a recipe of the folder with these settings, and says how long it took.
fn run_recipe(name: &str, settings: &[String]) {
    let began = Instant::now();
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
    succeed(train(&folder().join(name), &settings));
    println!("{name}: {:.0} s", began.elapsed().as_secs_f64());
}

/// The sums over a run of the counters in its metrics.
fn counted(run: &Path) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for line in std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines() {
        let line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        for (name, value) in line {
            *sums.entry(name).or_default() += value.as_f64().unwrap_or(0.0);
        }
    }
    sums
}

#[test]
#[ignore = "half a minute of fine-tuning and five short runs of GRPO"]
fn each_tool_of_each_environment_is_called_with_success() {
    let place = tempfile::tempdir().unwrap();
    let output = format!("output_dir={:?}", place.path());
    run_recipe(SFT, std::slice::from_ref(&output));
    let steps = load(&folder().join(SFT), &[]).unwrap().training.max_steps.unwrap();
    let model = format!("model.path={:?}", place.path().join(format!("tools_sft/checkpoint-{steps}")));
    let mut missing = Vec::new();
    for preset in PRESETS {
        let recipe = recipe(preset);
        assert!(recipe.model.path.ends_with(&format!("runs/tools_sft/checkpoint-{steps}")), "{}", recipe.model.path);
        run_recipe(&format!("{}.toml", preset.name), &[output.clone(), model.clone()]);
        let sums = counted(&place.path().join(&recipe.name));
        let of_tools = tools_run(preset).into_iter().map(|tool| format!("tool/{tool}/ok"));
        // A planner's sequence is answered by `Terminate`.
        for name in of_tools.chain(["end/answered".to_owned()]) {
            let count = sums.get(&name).copied().unwrap_or(0.0);
            println!("  {name}: {count}");
            if count == 0.0 {
                missing.push(format!("{}: {name}", preset.name));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
