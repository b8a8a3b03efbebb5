//! Weights & Biases: runs against a Python module of its client's name, which writes down what it is told, and against the client itself where
//! there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::lines;
use crate::support::command::{Workplace, assert_names, refuse, succeed, train};

/// A client that writes down what it is told; it may end in the midst of it.
const CLIENT: &str = r#"
import json, os, sys

__version__ = "0"
print("what a client prints is no answer")

def write(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\n")

class Settings:
    def __init__(self, **settings):
        pass

class Run:
    id = "run-7"
    url = "https://example.org/run-7"

    def log(self, values, step):
        write("log", step, values)
        if os.environ.get("ENDS_AT") == str(step):
            os._exit(1)

    def finish(self):
        write("finish")

def init(**arguments):
    arguments.pop("settings")
    write("init", arguments)
    return Run()
"#;

/// A recipe, and what the client was told.
fn workplace() -> (Workplace, PathBuf) {
    let place = Workplace::new();
    place.write("modules/wandb.py", CLIENT);
    place.write("broken/wandb.py", "raise ImportError('no client here')");
    let recipe = place.grpo("[evaluation]\ntasks = 0\n[data.needle]\n");
    (place, recipe)
}

fn with_client(place: &Workplace, modules: &str, recipe: &Path, more: &[&str]) -> Command {
    let settings = ["--set", "training.report_to=[\"wandb\"]", "--set", "training.max_steps=3"];
    let mut command = train(recipe, &[&settings[..], more].concat());
    command.env("PYTHONPATH", place.path(modules)).env("TOLD", place.path("told.jsonl"));
    for name in ["WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_DIR"] {
        command.env_remove(name);
    }
    command
}

fn told(place: &Workplace) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path("told.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_tells_the_client_what_it_logs_and_goes_on_in_it() {
    let (place, recipe) = workplace();
    let mut command = with_client(&place, "modules", &recipe, &[]);
    command.env("WANDB_PROJECT", "plates");
    let said = succeed(command);
    assert!(said.contains("Weights & Biases 0: https://example.org/run-7"), "{said}");
    let run = place.path("runs/run");
    let found = told(&place);
    let start = &found[0][1];
    assert_eq!((&start["project"], &start["name"], &start["id"]), (&"plates".into(), &"run".into(), &Value::Null));
    assert_eq!((&start["config"]["seed"], &start["resume"]), (&7.into(), &Value::Null));
    let logged: Vec<&Value> = found.iter().filter(|line| line[0] == "log").collect();
    let lines = lines(&run);
    assert_eq!((logged.len(), lines.len()), (3, 3));
    for (told, mut line) in logged.iter().zip(lines) {
        assert_eq!(Some(told[1].clone()), line.remove("step"));
        line.retain(|_, value| !value.is_null());
        assert_eq!(told[2], Value::Object(line));
    }
    assert_eq!(found.last().unwrap()[0], "finish");
    let has_events = || {
        let names = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().contains("tfevents"))
    };
    assert!(!has_events(), "`training.report_to` does not name it");

    succeed(with_client(&place, "modules", &recipe, &["--resume", "--set", "training.max_steps=4"]));
    let found = told(&place);
    let again = &found.iter().rfind(|line| line[0] == "init").unwrap()[1];
    assert_eq!((&again["id"], &again["resume"]), (&"run-7".into(), &"allow".into()));
    assert_eq!(found[found.len() - 2][1], 4);
}

#[test]
fn a_client_that_cannot_be_imported_ends_the_run_before_it_starts() {
    let (place, recipe) = workplace();
    let said = refuse(with_client(&place, "broken", &recipe, &[]));
    assert_names(
        &said,
        &[
            "`training.report_to`",
            "python3 cannot import it: ImportError: no client here",
            "python3 -m pip install wandb",
        ],
    );
    assert!(!place.path("runs/run").exists(), "nothing was begun");
    let said = refuse(with_client(&place, "broken", &recipe, &["--dry-run"]));
    assert!(said.contains("no client here"), "{said}");
    let said = refuse(train(&recipe, &["--set", "training.report_to=[\"mlflow\"]"]));
    assert_names(&said, &["mlflow", "tensorboard", "wandb"]);
}

#[test]
fn a_run_goes_on_without_a_client_that_ended() {
    let (place, recipe) = workplace();
    let mut command = with_client(&place, "modules", &recipe, &["--set", "training.max_steps=12"]);
    command.env("ENDS_AT", "1");
    let said = succeed(command);
    assert_eq!(lines(&place.path("runs/run")).len(), 12);
    assert_eq!(told(&place).len(), 2, "the run and its first step");
    assert!(said.contains("did not get the metrics of"), "{said}");
}

/// The client itself, where python3 has it: nothing is sent, and what it wrote can be read again.
#[test]
fn the_client_itself_takes_a_run_offline() {
    let has_client = Command::new("python3").args(["-c", "import wandb; wandb.init"]).current_dir("/").output();
    if !has_client.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: python3 has no wandb");
        return;
    }
    let (place, recipe) = workplace();
    let mut command = train(&recipe, &["--set", "training.report_to=[\"wandb\"]", "--set", "training.max_steps=2"]);
    command.env("WANDB_MODE", "offline");
    let said = succeed(command);
    assert!(said.contains("/offline-run-") && !said.contains("warning: Weights"), "{said}");
    let offline = std::fs::read_dir(place.path("runs/run/wandb")).unwrap().map(|entry| entry.unwrap().path());
    let records: Vec<PathBuf> = offline
        .filter(|path| path.is_dir() && !path.is_symlink())
        .flat_map(|run| std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>())
        .filter(|path| path.extension().is_some_and(|end| end == "wandb"))
        .collect();
    assert_eq!(records.len(), 1, "{said}");
    let bytes = std::fs::read(&records[0]).unwrap();
    for name in ["frac_reward_zero_std", "completions/mean_length"] {
        assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()), "{name} is not in the record");
    }
}
