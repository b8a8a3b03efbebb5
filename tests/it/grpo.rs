//! What a run of GRPO logs, counts and writes.

use std::path::Path;

use serde_json::Value;
use thyme_engine::tasks::jsonl::{NeedleFile, write_needle};
use thyme_engine::tasks::needle::{Mixture, Split};

use crate::support::command::{Workplace, refuse, succeed, train};

/// The lines of `metrics.jsonl` of the steps, evaluations left out.
fn lines(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("learning_rate").is_some()).collect()
}

fn steps(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["step"].as_u64().unwrap()).collect()
}

fn values(lines: &[Value], name: &str) -> Vec<Option<f64>> {
    let value = |line: &Value| line.get(name).unwrap_or_else(|| panic!("{name} is not logged: {line}")).as_f64();
    lines.iter().map(value).collect()
}

const NEEDLE: &str = "[evaluation]\ntasks = 0\n[data.needle]\n";

#[test]
fn a_step_with_nothing_to_learn_logs_null_and_the_third_warns() {
    let place = Workplace::new();
    let recipe = place.grpo(NEEDLE);
    let run = place.path("runs/run");
    let settings =
        ["--set", "grpo.beta=0.0", "--set", "grpo.filter_zero_advantage=true", "--set", "training.max_steps=3"];
    let said = succeed(train(&recipe, &settings));
    let found = lines(&run);
    for name in ["loss", "kl", "entropy", "clip_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean", "grad_norm"] {
        assert_eq!(values(&found, name), [None; 3], "{name}");
    }
    assert_eq!(values(&found, "frac_reward_zero_std"), [Some(1.0); 3]);
    assert_eq!(values(&found, "groups_left_out"), [Some(2.0); 3]);
    assert_eq!(said.matches("warning: nothing could be learned in the last 3 steps").count(), 1, "{said}");
    assert!(said.contains("2 of 2 groups had no two different rewards"), "{said}");

    // Whether groups teach is counted without the filter too; there is an entropy then, and no gradient.
    let unfiltered = ["--overwrite", "--set", "grpo.beta=0.0", "--set", "training.max_steps=3"];
    let said = succeed(train(&recipe, &unfiltered));
    assert_eq!(values(&lines(&run), "frac_reward_zero_std"), [Some(1.0); 3]);
    assert_eq!(values(&lines(&run), "groups_left_out"), [Some(0.0); 3]);
    assert_eq!((values(&lines(&run), "loss"), values(&lines(&run), "grad_norm")), (vec![None; 3], vec![None; 3]));
    assert!(values(&lines(&run), "entropy").iter().all(Option::is_some));
    assert!(said.contains("warning: nothing could be learned"), "{said}");

    // A divergence can be learned.
    let said = succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=3"]));
    assert!(!said.contains("nothing could be learned"), "{said}");
    for name in
        ["loss", "kl", "grad_norm", "advantage/min", "advantage/std", "advantage/max", "reward_std", "reward_min"]
    {
        assert!(values(&lines(&run), name).iter().all(Option::is_some), "{name}");
    }
    for (least, mean, most) in [
        ("completion_tokens/min", "completion_tokens", "completion_tokens/max"),
        ("num_turns/min", "num_turns", "num_turns/max"),
    ] {
        let found = lines(&run);
        let [least, mean, most] = [least, mean, most].map(|name| values(&found, name));
        assert!((0..3).all(|i| least[i] > Some(0.0) && least[i] <= mean[i] && mean[i] <= most[i]), "{found:?}");
    }
    for name in ["tool_call_counts", "tool_images"] {
        let found = lines(&run);
        for name in [format!("{name}/min"), name.to_owned(), format!("{name}/max")] {
            assert!(values(&found, &name).iter().all(|value| *value >= Some(0.0)), "{name}: {found:?}");
        }
    }
}

#[test]
fn a_run_folder_says_with_which_versions_it_was_made() {
    for method in ["sft", "grpo"] {
        let place = Workplace::new();
        let recipe = if method == "sft" { place.sft("[data.needle]\n") } else { place.grpo(NEEDLE) };
        succeed(train(&recipe, &["--set", "training.max_steps=1"]));
        let text = std::fs::read_to_string(place.path("runs/run/versions.json")).unwrap();
        let versions: Value = serde_json::from_str(&text).unwrap();
        assert!(versions["thyme-engine"].is_string(), "{text}");
        for name in ["python", "numpy", "opencv", "pillow"] {
            assert_eq!(versions[name].is_string(), method == "grpo", "{name}: {text}");
        }
    }
}

#[test]
fn both_methods_log_averages_over_a_window_and_the_last_step() {
    for method in ["sft", "grpo"] {
        let (each, some) = (Workplace::new(), Workplace::new());
        let recipe = |place: &Workplace| match method {
            "sft" => place.sft("[data.needle]\n"),
            _ => place.grpo(NEEDLE),
        };
        let steps_of_run = ["--set", "training.max_steps=5"];
        succeed(train(&recipe(&each), &steps_of_run));
        succeed(train(&recipe(&some), &[&steps_of_run[..], &["--set", "training.logging_steps=3"]].concat()));
        let (all, windows) = (lines(&each.path("runs/run")), lines(&some.path("runs/run")));
        assert_eq!((steps(&all), steps(&windows)), (vec![1, 2, 3, 4, 5], vec![3, 5]), "{method}");
        for name in ["loss", "grad_norm", "trained_tokens"] {
            let each: Vec<f64> = values(&all, name).into_iter().flatten().collect();
            let wanted = [(each[0] + each[1] + each[2]) / 3.0, (each[3] + each[4]) / 2.0];
            assert_eq!(values(&windows, name), wanted.map(Some), "{method} {name}");
        }
        let rates = values(&all, "learning_rate");
        assert_eq!(values(&windows, "learning_rate"), [rates[2], rates[4]], "{method}");
        let means = |name| (values(&all, name), values(&windows, name));
        if method == "grpo" {
            let (each, window) = means("completion_tokens/max");
            let most = |values: &[Option<f64>]| values.iter().copied().flatten().reduce(f64::max);
            assert_eq!(window, [most(&each[..3]), most(&each[3..])]);
        }
    }
}

/// Lines without what depends on the clock.
fn timeless(lines: Vec<Value>) -> Vec<Value> {
    let depends_on_time = |key: &str| key.contains("second") || key.starts_with("engine/");
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().retain(|key, _| !depends_on_time(key));
        line
    };
    lines.into_iter().map(strip).collect()
}

#[test]
fn a_window_that_a_checkpoint_cuts_goes_on_in_the_resumed_run() {
    for method in ["sft", "grpo"] {
        let place = Workplace::new();
        let recipe = if method == "sft" { place.sft("[data.needle]\n") } else { place.grpo(NEEDLE) };
        let run = place.path("runs/run");
        let settings = ["--set", "training.max_steps=6", "--set", "training.logging_steps=4", "--set"];
        let settings = [&settings[..], &["training.save_total_limit=0"]].concat();
        succeed(train(&recipe, &settings));
        let calm = timeless(lines(&run));
        assert_eq!(steps(&calm), [4, 6]);
        // As if it had been killed in the first window, then in the second.
        for last in [2, 5] {
            for step in last + 1..=6 {
                std::fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
            }
            succeed(train(&recipe, &[&settings[..], &["--resume"]].concat()));
            assert_eq!(timeless(lines(&run)), calm, "{method} resumed after step {last}");
        }
        // The last line's window goes on where a run gets more steps.
        let more = ["--resume", "--set", "training.max_steps=8", "--set", "training.logging_steps=4"];
        succeed(train(&recipe, &more));
        assert_eq!(steps(&lines(&run)), [4, 6, 8], "{method}");
    }
}

#[test]
fn some_rollouts_of_each_step_are_written_as_pages() {
    let place = Workplace::new();
    let recipe = place.grpo(NEEDLE);
    let pages = || {
        let mut names: Vec<String> = std::fs::read_dir(place.path("runs/run/samples"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".md"))
            .collect();
        names.sort();
        names
    };
    succeed(train(&recipe, &["--set", "training.max_steps=2"]));
    assert!(pages().is_empty(), "{:?}", pages());
    let settings = ["--overwrite", "--set", "training.max_steps=2", "--set", "training.log_completions=3"];
    succeed(train(&recipe, &settings));
    let wanted = ["step-1-0-0.md", "step-1-0-1.md", "step-1-1-0.md", "step-2-0-0.md", "step-2-0-1.md", "step-2-1-0.md"];
    assert_eq!(pages(), wanted);
    let page = std::fs::read_to_string(place.path("runs/run/samples/step-2-1-0.md")).unwrap();
    assert!(page.contains("| reward | ") && page.contains("**question**"), "{page}");
    succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=2"]));
    assert!(pages().is_empty(), "a run that starts anew keeps no page of the one before: {:?}", pages());
}

#[test]
fn a_recipe_counts_epochs_as_well_as_steps() {
    let place = Workplace::new();
    for (name, kind) in
        [("tasks", NeedleFile::Tasks(None)), ("demonstrations", NeedleFile::Samples(Mixture::DEMONSTRATIONS))]
    {
        write_needle(&place.path(name), kind, 5, Split::Train, 7).unwrap();
    }
    let run = place.path("runs/run");
    for (method, recipe) in [
        ("sft", place.sft("[data]\nfiles = [\"demonstrations/data.jsonl\"]\n")),
        ("grpo", place.grpo("[evaluation]\ntasks = 0\n[data]\nfiles = [\"tasks/data.jsonl\"]\n")),
    ] {
        let own = std::fs::read_to_string(&recipe).unwrap();
        let without_steps = own.replace("max_steps = 12\n", "").replace("max_steps = 6\n", "");
        assert_ne!(own, without_steps);
        std::fs::write(&recipe, without_steps).unwrap();
        // Two examples a step: one pass over five takes three steps, two take five, a fifth takes half of one.
        for (settings, wanted) in [
            (&["training.num_train_epochs=1"][..], 3),
            (&["training.num_train_epochs=2.0"], 5),
            (&["training.num_train_epochs=0.2"], 1),
            (&["training.num_train_epochs=2", "training.max_steps=4"], 4),
            (&["training.num_train_epochs=1", "training.max_steps=4"], 3),
        ] {
            let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
            succeed(train(&recipe, &[&["--overwrite"], &settings[..]].concat()));
            assert_eq!(lines(&run).len(), wanted, "{method} {settings:?}");
            assert!(run.join(format!("checkpoint-{wanted}")).exists());
        }
        let refused = refuse(train(&recipe, &["--set", "training.num_train_epochs=0"]));
        assert!(refused.contains("`training.num_train_epochs` is 0: give a number above 0"), "{refused}");
    }
    let refused = refuse(train(&place.grpo(NEEDLE), &["--set", "training.num_train_epochs=1"]));
    assert!(refused.contains("`training.num_train_epochs` is 1: the built-in task has no end"), "{refused}");
    let refused = refuse(train(
        &place.grpo(NEEDLE),
        &["--set", "grpo.beta=0.0", "--set", "grpo.kl_zero_temperature_tokens=true"],
    ));
    assert!(refused.contains("`grpo.kl_zero_temperature_tokens` is true: there is no KL"), "{refused}");
}
