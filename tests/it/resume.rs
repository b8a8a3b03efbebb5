//! Runs that are killed, interrupted and taken up again: they end with the bits of a run that nobody disturbed.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thyme_engine::tasks::jsonl::{NeedleFile, write_needle};
use thyme_engine::tasks::needle::Split;

use crate::support::command::{Workplace, refuse, said, succeed, train};

const NEEDLE: &str = "[data.needle]\n";
const DEMONSTRATIONS: &str = "[data.needle]\nmixture = { look = 0.5, read = 0.5 }\n";
/// Longest wait for a process of a test.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Names in a folder that begin and end so.
fn names(folder: &Path, start: &str, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with(start) && name.ends_with(end));
    names.sort();
    names
}

/// The lines of `metrics.jsonl` without what depends on the clock.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        // What the engine found computed depends on which task was ready first, as the seconds do.
        let depends_on_time = |key: &str| key.contains("second") || key.starts_with("engine/");
        line.as_object_mut().unwrap().retain(|key, _| !depends_on_time(key));
        line
    };
    text.lines().map(line).collect()
}

/// The steps of a run's points as TensorBoard shows them: of its event files in the order of their names, where each start of a session
/// makes void what was said of its step and of those behind it.
fn shown_steps(run: &Path) -> Vec<u64> {
    let mut steps = Vec::new();
    for name in names(run, "events.out.tfevents.", "") {
        let bytes = std::fs::read(run.join(name)).unwrap();
        let mut rest = bytes.as_slice();
        // A record: its length in 8 bytes, 4 of checksum, the message, 4 of checksum.
        while let Some((length, behind)) = rest.split_first_chunk::<8>() {
            let length = u64::from_le_bytes(*length) as usize;
            // A message: 9 bytes of time, then the step unless it is 0 or has none, then what happened.
            let message = &behind[4..][9..length];
            let (step, content) = match message {
                [0x10, rest @ ..] => {
                    let bytes = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
                    (
                        rest[..bytes].iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f)),
                        &rest[bytes..],
                    )
                }
                content => (0, content),
            };
            const SUMMARY: u8 = 5 << 3 | 2;
            match content {
                [SUMMARY, ..] => steps.push(step),
                [.., 0x3a, 2, 8, 1] => steps.retain(|&earlier| earlier < step),
                version => assert!(version.ends_with(b"brain.Event:2"), "{version:?}"),
            }
            rest = &behind[4 + length + 4..];
        }
    }
    steps
}

fn lines(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoint-{step}"))
}

/// Both runs ended at `step` with the same weights, optimizer, state and metrics.
fn assert_same_run(one: &Path, other: &Path, step: u64) {
    for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json"] {
        let [one, other] = [one, other].map(|run| std::fs::read(checkpoint(run, step).join(file)).unwrap());
        assert!(one == other, "{file} differs");
    }
    assert_eq!(metrics(one), metrics(other));
}

/// Something between 0 and 1 that is different each time.
fn chance() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    f64::from(now.subsec_nanos() / 100 % 100_000) / 100_000.0
}

/// Waits until `ready`, or until the process has ended.
fn wait_until(child: &mut Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < TIMEOUT, "nothing came for {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ended(mut child: Child) -> ExitStatus {
    wait_until(&mut child, || false);
    child.wait().unwrap()
}

/// Runs `command` and `--resume`s it five times, each time killing it later: at a random moment after `lines_apart` more steps, or, each
/// second time, while a checkpoint is being written. The last resumption runs to the end.
fn kill_five_times(command: impl Fn(&[&str]) -> Command, run: &Path, lines_apart: usize) {
    let mut killed = 0;
    for round in 0..5 {
        let mut child = command(if round == 0 { &[] } else { &["--resume"] }).spawn().unwrap();
        wait_until(&mut child, || lines(run) > round * lines_apart);
        if round % 2 == 1 {
            wait_until(&mut child, || !names(run, "checkpoint-", ".partial").is_empty());
        } else {
            std::thread::sleep(Duration::from_secs_f64(0.2 * chance()));
        }
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(killed >= 4, "only {killed} of 5 runs were killed before they ended");
    assert!(succeed(command(&["--resume"])).contains("resumed after step"));
}

/// Runs a recipe undisturbed, and once more, killed after five lines of metrics and resumed: both end at `step` with the same bits, in these files of
/// the checkpoint too.
fn killed_and_resumed(
    recipe: impl Fn(&Workplace) -> PathBuf,
    settings: &[&str],
    step: u64,
    files: &[&str],
) -> Workplace {
    let (calm, killed) = (Workplace::new(), Workplace::new());
    succeed(train(&recipe(&calm), settings));
    let (recipe, run) = (recipe(&killed), killed.path("runs/run"));
    let mut child = train(&recipe, settings).spawn().unwrap();
    wait_until(&mut child, || lines(&run) > 5);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "it was killed before it ended");
    assert!(succeed(train(&recipe, &[settings, &["--resume"]].concat())).contains("resumed after step"));
    let calm = calm.path("runs/run");
    assert_same_run(&calm, &run, step);
    for file in files {
        let [one, other] = [&calm, &run].map(|run| std::fs::read(checkpoint(run, step).join(file)).unwrap());
        assert!(one == other, "{file} differs");
    }
    killed
}

#[test]
fn a_fine_tuning_run_killed_five_times_ends_with_the_bits_of_an_undisturbed_one() {
    // Steps enough that a kill which comes late, on a busy machine, still finds the run under way.
    let steps = ["--set", "training.max_steps=40"];
    let (calm, killed) = (Workplace::new(), Workplace::new());
    succeed(train(&calm.sft(DEMONSTRATIONS), &steps));
    let recipe = killed.sft(DEMONSTRATIONS);
    let run = killed.path("runs/run");
    kill_five_times(|arguments| train(&recipe, &[&steps[..], arguments].concat()), &run, 2);
    assert_same_run(&calm.path("runs/run"), &run, 40);
    let steps: Vec<u64> = metrics(&run).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<u64>>());
    assert_eq!(shown_steps(&run), steps, "each point is shown once");
    assert_eq!(names(&run, "checkpoint-", ""), ["checkpoint-39", "checkpoint-40"], "save_total_limit is 2");
}

#[test]
fn a_run_with_replayed_rollouts_and_a_reference_that_follows_resumes_to_the_same_bits() {
    let settings = [
        "--set",
        "grpo.refill='replay'",
        "--set",
        "grpo.ref_model_sync_steps=2",
        "--set",
        "grpo.oversampling=1.5",
        "--set",
        "grpo.num_mini_batches=2",
        "--set",
        "grpo.num_generations=3",
        "--set",
        "training.max_steps=14",
    ];
    let recipe = |place: &Workplace| {
        // Random weights never answer; how long they think differs.
        let file = place.write("length.py", "def reward(reasoning):\n    return len(reasoning) % 7 == 0\n");
        place.grpo(&format!("{NEEDLE}[evaluation]\ntasks = 0\n[reward.settings.length]\nfile = {file:?}\n"))
    };
    let killed =
        killed_and_resumed(recipe, &settings, 14, &["reference_model/model.safetensors", "replay/rollouts.json"]);
    let run = killed.path("runs/run");
    let replayed = metrics(&run).iter().filter(|line| line["replayed_completions"].as_f64() > Some(0.0)).count();
    assert!(replayed > 0, "no step replayed anything");
}

#[test]
fn a_run_with_a_curriculum_resumes_with_the_same_draws() {
    let settings = ["--set", "training.max_steps=14", "--set", "grpo.max_num_gen_batches=2"];
    let recipe = |place: &Workplace| {
        write_needle(&place.path("needle"), NeedleFile::Tasks(None), 7, Split::Train, 7).unwrap();
        // Random weights answer nothing: each row is outside the band once it was measured.
        place.grpo(
            "[evaluation]\ntasks = 0\n[data]\nfiles = [\"needle/data.jsonl\"]\n[data.curriculum]\noutside_share = 0.4\n",
        )
    };
    let killed = killed_and_resumed(recipe, &settings, 14, &["pass_rates.json"]);
    let run = killed.path("runs/run");
    let skipped = metrics(&run).iter().filter(|line| line["curriculum/skipped"].as_f64() > Some(0.0)).count();
    assert!(skipped > 4, "only {skipped} steps passed over a row");
}

#[test]
fn points_behind_the_checkpoint_are_superseded() {
    let place = Workplace::new();
    let recipe = place.sft(DEMONSTRATIONS);
    let run = place.path("runs/run");
    succeed(train(&recipe, &["--set", "training.max_steps=3"]));
    // As if it had been killed between a step and its checkpoint.
    std::fs::remove_dir_all(checkpoint(&run, 3)).unwrap();
    assert!(succeed(train(&recipe, &["--resume", "--set", "training.max_steps=4"])).contains("resumed after step 2"));
    assert_eq!(names(&run, "events.out.tfevents.", "").len(), 2);
    assert_eq!(shown_steps(&run), [1, 2, 3, 4]);
    let steps: Vec<u64> = metrics(&run).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
}

#[test]
fn a_grpo_run_killed_five_times_ends_with_the_bits_of_an_undisturbed_one() {
    let more = format!("[evaluation]\ntasks = 2\nsteps = 2\n{NEEDLE}");
    let (calm, killed) = (Workplace::new(), Workplace::new());
    succeed(train(&calm.grpo(&more), &[]));
    let recipe = killed.grpo(&more);
    let run = killed.path("runs/run");
    kill_five_times(|arguments| train(&recipe, arguments), &run, 1);
    assert_same_run(&calm.path("runs/run"), &run, 6);
    let first = std::fs::read(checkpoint(&run, 5).join("model.safetensors")).unwrap();
    let last = std::fs::read(checkpoint(&run, 6).join("model.safetensors")).unwrap();
    assert!(first != last, "the weights move");
    assert!(metrics(&run).iter().filter(|line| line["trained_tokens"].as_f64() > Some(0.0)).count() == 6);
    assert!(metrics(&run).iter().all(|line| line["mismatched_tokens"].as_f64().unwrap_or(0.0) == 0.0));
}

#[test]
fn tasks_from_files_train_as_the_built_in_task_does() {
    let (drawn, read) = (Workplace::new(), Workplace::new());
    let more = "[evaluation]\ntasks = 0\n";
    succeed(train(&drawn.grpo(&format!("{more}{NEEDLE}")), &["--set", "training.max_steps=3"]));
    write_needle(&read.path("needle"), NeedleFile::Tasks(None), 6, Split::Train, 7).unwrap();
    let recipe = read.grpo(&format!("{more}[data]\nfiles = [\"needle/data.jsonl\"]\nshuffle = false\n"));
    succeed(train(&recipe, &["--set", "training.max_steps=3"]));
    assert_same_run(&drawn.path("runs/run"), &read.path("runs/run"), 3);
}

#[test]
fn an_interrupted_run_saves_and_succeeds() {
    let place = Workplace::new();
    let recipe = place.sft(DEMONSTRATIONS);
    let run = place.path("runs/run");
    let mut child =
        train(&recipe, &["--set", "training.max_steps=100000", "--set", "training.save_steps=0"]).spawn().unwrap();
    wait_until(&mut child, || lines(&run) >= 2);
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(ended(child).code(), Some(0));
    let last = metrics(&run).last().unwrap()["step"].as_u64().unwrap();
    assert_eq!(names(&run, "checkpoint-", ""), [format!("checkpoint-{last}")]);
    let steps = format!("training.max_steps={}", last + 1);
    succeed(train(&recipe, &["--resume", "--set", &steps]));
    assert_eq!(lines(&run) as u64, last + 1);
}

#[test]
fn a_run_that_is_for_its_numbers_saves_nothing() {
    let place = Workplace::new();
    let settings = ["--set", "training.max_steps=2", "--set", "training.save_strategy=no"];
    succeed(train(&place.sft(DEMONSTRATIONS), &settings));
    let run = place.path("runs/run");
    assert_eq!((lines(&run), names(&run, "checkpoint-", "")), (2, vec![]));
}

#[test]
fn a_run_folder_with_checkpoints_is_not_started_over_unless_asked() {
    let place = Workplace::new();
    let recipe = place.sft(DEMONSTRATIONS);
    let run = place.path("runs/run");
    let short = ["--set", "training.max_steps=2"];
    assert!(succeed(train(&recipe, &[&short[..], &["--resume"]].concat())).contains("holds no checkpoint"));
    let before = std::fs::read(run.join("metrics.jsonl")).unwrap();
    let message = refuse(train(&recipe, &short));
    assert!(
        message.contains("checkpoint-2") && message.contains("--resume") && message.contains("--overwrite"),
        "{message}"
    );
    assert_eq!(std::fs::read(run.join("metrics.jsonl")).unwrap(), before);
    succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=1"]));
    assert_eq!(names(&run, "checkpoint-", ""), ["checkpoint-1"]);
    assert_eq!(lines(&run), 1);
    let rights = |file| std::fs::metadata(checkpoint(&run, 1).join(file)).unwrap().permissions();
    assert_eq!(rights("model.safetensors"), rights("trainer_state.json"), "whoever reads one may read the other");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_older_one_and_no_debris() {
    use std::os::unix::process::CommandExt;
    let place = Workplace::new();
    let recipe = place.sft(DEMONSTRATIONS);
    let run = place.path("runs/run");
    succeed(train(&recipe, &["--set", "training.max_steps=1"]));
    let mut command = train(&recipe, &["--resume"]);
    // SAFETY: between fork and exec only two system calls are made. Files of at most 64 KiB stand for a disk that is nearly full.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let message = refuse(command);
    assert!(
        message.contains("cannot write") && message.contains("safetensors") && message.contains("--resume"),
        "{message}"
    );
    assert_eq!(names(&run, "checkpoint-", ""), ["checkpoint-1"]);
    succeed(train(&recipe, &["--resume", "--set", "training.max_steps=2"]));
    assert_eq!(lines(&run), 2);
}

#[test]
fn moments_in_8_bits_go_on_to_the_same_bits_and_only_under_the_same_key() {
    let settings = |steps| {
        let constant = "optimizer.lr_scheduler_type=constant"; // or the steps to come would change those that were taken
        ["--set", "optimizer.optim=adamw_8bit", "--set", constant, "--set", steps]
    };
    let (calm, resumed) = (Workplace::new(), Workplace::new());
    succeed(train(&calm.sft(DEMONSTRATIONS), &settings("training.max_steps=4")));
    let recipe = resumed.sft(DEMONSTRATIONS);
    let run = resumed.path("runs/run");
    succeed(train(&recipe, &settings("training.max_steps=2")));
    let bytes = |name| std::fs::metadata(checkpoint(&run, 2).join(name)).unwrap().len();
    assert!(bytes("optimizer.safetensors") < 3 * bytes("model.safetensors"), "a remainder of 2 bytes and two codes");

    let refused = refuse(train(&recipe, &["--resume"]));
    for part in ["`optimizer.optim = \"adamw_8bit\"`", "the recipe says \"adamw\"", "go on with", "`model.path`"] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    let said = succeed(train(&recipe, &[&settings("training.max_steps=4")[..], &["--resume"]].concat()));
    assert!(said.contains("resumed after step 2"));
    assert_same_run(&calm.path("runs/run"), &run, 4);

    succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=1"]));
    let refused = refuse(train(&recipe, &[&settings("training.max_steps=2")[..], &["--resume"]].concat()));
    assert!(refused.contains("`optimizer.optim = \"adamw\"`") && refused.contains("\"adamw_8bit\""), "{refused}");
}

#[test]
fn resuming_under_other_frozen_parts_says_what_to_do() {
    let place = Workplace::new();
    let recipe = place.sft(DEMONSTRATIONS);
    succeed(train(&recipe, &["--set", "training.max_steps=1", "--set", "model.freeze_vision_tower=true"]));
    let output = train(&recipe, &["--resume"]).output().unwrap();
    let message = said(&output);
    assert!(!output.status.success() && message.contains("model.freeze_") && message.contains("visual."), "{message}");
}
