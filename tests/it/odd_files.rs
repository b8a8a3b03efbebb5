//! Odd things in the place of every file that a command opens: FIFOs, folders, devices, sockets, links to nothing, files without an end, files
//! that were cut. Each command ends by itself within seconds, with an error that names the file.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde_json::json;

use crate::support::command::{Workplace, said, succeed, train};

/// Longer than this no command looks at an odd file, even beside other tests.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Address space of a command, in KiB: what has no end must not be read until memory ends.
const ADDRESS_KIB: u64 = 16 << 20;

/// What stands in the place of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Odd {
    Fifo,
    Folder,
    Socket,
    Dangling,
    /// A link to /dev/zero.
    Zero,
    /// A link to a file of the kernel that makes its reader wait.
    Waiting,
    Empty,
    /// Zeros for a tebibyte, without a block on the disk.
    Endless,
    /// Bytes that are no text.
    Binary,
}

/// Those that are no file at all.
const NO_FILES: [Odd; 6] = [Odd::Fifo, Odd::Folder, Odd::Socket, Odd::Dangling, Odd::Zero, Odd::Waiting];
/// All of them.
const ALL: [Odd; 9] = [
    Odd::Fifo,
    Odd::Folder,
    Odd::Socket,
    Odd::Dangling,
    Odd::Zero,
    Odd::Waiting,
    Odd::Empty,
    Odd::Endless,
    Odd::Binary,
];

impl Odd {
    /// Puts it there; the listener keeps a socket.
    fn put(self, path: &Path) -> Option<UnixListener> {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_dir_all(path);
        match self {
            Odd::Fifo => {
                use rustix::fs::{CWD, FileType, Mode, mknodat};
                mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            }
            Odd::Folder => std::fs::create_dir(path).unwrap(),
            Odd::Socket => return Some(UnixListener::bind(path).unwrap()),
            Odd::Dangling => symlink("nowhere", path).unwrap(),
            Odd::Zero => symlink("/dev/zero", path).unwrap(),
            Odd::Waiting => symlink("/proc/kmsg", path).unwrap(),
            Odd::Empty => std::fs::write(path, "").unwrap(),
            Odd::Endless => File::create(path).unwrap().set_len(1 << 40).unwrap(),
            Odd::Binary => {
                std::fs::write(path, (0..4096u32).map(|i| (i * 37 % 251) as u8).collect::<Vec<_>>()).unwrap()
            }
        }
        None
    }
}

/// How a command ended that was given time.
struct Ending {
    /// None after a signal, or when its time was over.
    code: Option<i32>,
    said: String,
}

/// Runs the binary with bounded time and memory.
fn run(arguments: &[&str]) -> Ending {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_KIB}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_thyme-engine")]);
    let mut child = command
        .args(arguments)
        .env("HF_HUB_CACHE", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > TIMEOUT {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let late = if began.elapsed() > TIMEOUT { "(its time was over) " } else { "" };
    Ending { code: output.status.code(), said: format!("{late}{}", said(&output)) }
}

/// A workplace with weights, a picture and files of lines.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let mut init = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    init.args(["init", "--seed", "0", "--config"]).arg(place.path("model/config.json"));
    init.arg("--out").arg(place.path("tiny"));
    succeed(init);
    image::RgbImage::from_pixel(40, 40, image::Rgb([200, 0, 0])).save(place.path("red.png")).unwrap();
    let messages =
        json!([{"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "?"}]}]);
    place.write("requests.jsonl", json!({"id": 1, "messages": messages}).to_string());
    let body = json!({"messages": [{"role": "user", "content": "?"}], "max_tokens": 2});
    let call = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body});
    place.write("calls.jsonl", call.to_string());
    place.write("predictions.jsonl", json!({"answer": "7", "solution": "7"}).to_string());
    place.write(
        "tasks.jsonl",
        json!({"messages": [{"role": "user", "content": "<image>?"}], "images": ["red.png"], "solution": "7", "question": "?"})
            .to_string(),
    );
    let row = json!({"image": ["red.png"], "question": "<image>?", "response": "<think>x</think><answer>7</answer>"});
    place.write("rows.jsonl", row.to_string());
    place.write("code.py", "print(1)");
    place.write("template.jinja", "{{ messages[0].content }}");
    place
}

/// Puts each of `odd` in the place of `name` before a command runs, in a workplace of its own; what is wrong with how it ended. A file
/// whose content alone is odd may be of use.
fn faults(name: &str, odd: &[Odd], command: &[&str]) -> Vec<String> {
    odd.par_iter().filter_map(|&odd| fault(workplace(), name, odd, command)).collect()
}

fn fault(place: Workplace, name: &str, odd: Odd, command: &[&str]) -> Option<String> {
    let path = place.path(name);
    let _socket = odd.put(&path);
    let arguments: Vec<String> = command.iter().map(|word| in_place(word, &place)).collect();
    let Ending { code, said } = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let is_refused = code == Some(1) && said.contains("error: ");
    let must_be = NO_FILES.contains(&odd) || odd == Odd::Endless;
    let is_right = if must_be { is_refused } else { is_refused || code == Some(0) };
    let names_it = code == Some(0) || said.contains(path.file_name().unwrap().to_str().unwrap());
    let is_ours = !said.contains("panicked") && !said.contains("memory allocation");
    (!is_right || !names_it || !is_ours).then(|| format!("{odd:?} as {name}: {command:?}: {code:?} {said}"))
}

/// A word of a command; what begins with `@` is a path in the workplace.
fn in_place(word: &str, place: &Workplace) -> String {
    word.strip_prefix('@').map_or(word.to_owned(), |name| place.path(name).display().to_string())
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} of them:\n{}", faults.len(), faults.join("\n"));
}

const SCORE: [&str; 7] = ["score", "--model", "@tiny", "--input", "@requests.jsonl", "--output", "@out.jsonl"];
const BATCH: [&str; 9] =
    ["batch", "--model", "@tiny", "--input", "@calls.jsonl", "--output", "@out.jsonl", "--kv-cache-memory-bytes", "1"];

#[test]
fn odd_files_of_a_checkpoint_are_refused_by_name() {
    let of_all = ["config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"];
    let found = of_all.par_iter().flat_map(|name| faults(&format!("tiny/{name}"), &ALL, &SCORE));
    let optional = [
        "chat_template.jinja",
        "tokenizer_config.json",
        "generation_config.json",
        "processor_config.json",
        "adapter_config.json",
    ];
    let found = found.chain(optional.par_iter().flat_map(|name| faults(&format!("tiny/{name}"), &NO_FILES, &BATCH)));
    none(found.collect());
}

#[test]
fn odd_files_of_lines_are_refused_by_name() {
    let commands: [(&str, &[&str]); 6] = [
        ("requests.jsonl", &SCORE),
        ("calls.jsonl", &BATCH),
        ("requests.jsonl", &["batch", "--model", "@tiny", "--input", "@requests.jsonl", "--output", "@out.jsonl"]),
        ("predictions.jsonl", &["eval", "--predictions", "@predictions.jsonl", "--output", "@out.jsonl"]),
        ("tasks.jsonl", &["eval", "--model", "@tiny", "--data", "@tasks.jsonl", "--limit", "1"]),
        ("out.jsonl", &["batch", "--resume", "--model", "@tiny", "--input", "@calls.jsonl", "--output", "@out.jsonl"]),
    ];
    none(commands.par_iter().flat_map(|(name, command)| faults(name, &ALL, command)).collect());
}

#[test]
fn odd_pictures_code_recipes_and_templates_are_refused_by_name() {
    let sandbox: &[&str] = &["sandbox", "--image", "@red.png", "@code.py"];
    let generate: &[&str] =
        &["generate", "--model", "@tiny", "--env", "none", "--max-tokens", "2", "--image", "@red.png", "?"];
    let commands: [(&str, &[&str]); 7] = [
        ("red.png", &SCORE),
        ("red.png", generate),
        ("red.png", sandbox),
        ("code.py", sandbox),
        ("recipe.toml", &["train", "@recipe.toml", "--dry-run"]),
        ("config.json", &["init", "--config", "@config.json", "--seed", "0", "--out", "@new"]),
        ("template.jinja", &["serve", "@tiny", "--port", "0", "--chat-template", "@template.jinja"]),
    ];
    let recipe = commands.par_iter().flat_map(|(name, command)| faults(name, &NO_FILES, command));
    none(recipe.collect());
}

#[test]
fn odd_outputs_are_refused_by_name_and_a_device_stays_one() {
    let odd = [Odd::Fifo, Odd::Folder, Odd::Socket, Odd::Zero];
    let commands: [&[&str]; 5] = [
        &SCORE,
        &BATCH,
        &["eval", "--predictions", "@predictions.jsonl", "--output", "@out.jsonl"],
        &["doctor", "--trace", "@out.jsonl"],
        &["init", "--config", "@model/config.json", "--seed", "0", "--out", "@out.jsonl"],
    ];
    let is_refused = |command: &&&[&str], odd: &Odd| !(command[0] == "init" && *odd == Odd::Folder);
    let found = commands.par_iter().flat_map(|command| {
        let odd: Vec<Odd> = odd.into_iter().filter(|odd| is_refused(&command, odd)).collect();
        faults("out.jsonl", &odd, command)
    });
    none(found.collect());
    let place = workplace();
    let predictions = place.path("predictions.jsonl").display().to_string();
    // What /dev/stdout leads to.
    const STDOUT: &str = "/proc/self/fd/1";
    for output in ["/dev/null", STDOUT] {
        let Ending { code, said } = run(&["eval", "--predictions", &predictions, "--output", output]);
        assert_eq!(code, Some(0), "{output}: {said}");
        assert_eq!(said.contains("\"scores\":{\"answer\":1.0}"), output == STDOUT, "{said}");
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
    }
    // A link that the user made is the user's wish.
    place.write("kept/old.jsonl", "old");
    symlink("kept/old.jsonl", place.path("link.jsonl")).unwrap();
    let link = place.path("link.jsonl").display().to_string();
    assert_eq!(run(&["eval", "--predictions", &predictions, "--output", &link]).code, Some(0));
    assert!(std::fs::read_to_string(place.path("kept/old.jsonl")).unwrap().contains("scores"));
    assert!(place.path("link.jsonl").is_symlink());
}

/// A run folder with two checkpoints.
fn run_folder() -> (Workplace, PathBuf) {
    let place = workplace();
    let recipe = place.sft("logging_steps = 5\n[data]\nneedle = {}\n");
    succeed(train(&recipe, &["--set", "training.max_steps=2"]));
    (place, recipe)
}

#[test]
fn odd_files_of_a_run_are_refused_by_name_and_nothing_is_written_through_them() {
    let (place, recipe) = run_folder();
    let checkpoint = place.path("runs/run/checkpoint-2");
    let resume = |name: &str, odd: Odd| {
        let path = checkpoint.join(name);
        let kept = place.path("kept");
        std::fs::rename(&path, &kept).unwrap();
        let socket = odd.put(&path);
        let recipe = recipe.display().to_string();
        let Ending { code, said } = run(&["train", &recipe, "--resume", "--set", "training.max_steps=3"]);
        drop(socket);
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::rename(&kept, &path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let is_right = code == Some(1) && said.contains("error: ") && said.contains(file) && !said.contains("panicked");
        (!is_right).then(|| format!("{odd:?} as {name}: {code:?} {said}"))
    };
    let names = [
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "logging_window.json",
        "../metrics.jsonl",
        "../log.txt",
    ];
    let mut found = Vec::new();
    for name in names {
        // A log is added to, whatever it holds.
        let odd = if name.starts_with("..") { &NO_FILES[..] } else { &ALL[..] };
        found.extend(odd.iter().filter_map(|&odd| resume(name, odd)));
    }
    none(found);
    // What the run writes anew takes the place of a link and leaves what it leads to.
    for name in ["recipe.toml", "metrics.jsonl", "log.txt"] {
        let (own, other) = (place.path("runs/run").join(name), place.write("other/file", "kept"));
        std::fs::remove_file(&own).unwrap();
        symlink(&other, &own).unwrap();
        let said = run(&["train", recipe.to_str().unwrap(), "--resume", "--set", "training.max_steps=3"]).said;
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "kept", "{name}: {said}");
        let overwritten = train(&recipe, &["--overwrite", "--set", "training.max_steps=2"]);
        succeed(overwritten);
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "kept", "{name}");
        assert!(!own.is_symlink(), "{name} is the run's own again");
    }
    // The run's folder itself may be a link.
    std::fs::rename(place.path("runs"), place.path("elsewhere")).unwrap();
    symlink("elsewhere", place.path("runs")).unwrap();
    succeed(train(&recipe, &["--resume", "--set", "training.max_steps=3"]));
    assert!(place.path("elsewhere/run/checkpoint-3").is_dir());
}

#[test]
fn a_checkpoint_that_is_cut_anywhere_is_refused() {
    let (place, recipe) = run_folder();
    let checkpoint = place.path("runs/run/checkpoint-2");
    let mut found = Vec::new();
    for name in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
        let path = checkpoint.join(name);
        let bytes = std::fs::read(&path).unwrap();
        for length in [1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 3] {
            std::fs::write(&path, &bytes[..length.min(bytes.len() - 3)]).unwrap();
            let Ending { code, said } =
                run(&["train", recipe.to_str().unwrap(), "--resume", "--set", "training.max_steps=3"]);
            if code != Some(1) || !said.contains(name) || said.contains("panicked") {
                found.push(format!("{name} cut to {length}: {code:?} {said}"));
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    none(found);
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = workplace();
    let everyone = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for folder in ["", "tiny", "model"] {
        everyone(&place.path(folder), 0o777);
    }
    // The user may not come as far as the build's folder.
    let binary = place.path("thyme-engine");
    std::fs::copy(env!("CARGO_BIN_EXE_thyme-engine"), &binary).unwrap();
    let mut found = Vec::new();
    for (name, command) in [
        ("tiny/config.json", &SCORE[..]),
        ("tiny/model.safetensors", &SCORE),
        ("tiny/tokenizer.json", &SCORE),
        ("tiny/preprocessor_config.json", &SCORE),
        ("tiny/chat_template.jinja", &SCORE),
        ("requests.jsonl", &SCORE),
        ("red.png", &SCORE),
        ("calls.jsonl", &BATCH),
    ] {
        everyone(&place.path(name), 0);
        let arguments = command.iter().map(|word| in_place(word, &place));
        let mut child = Command::new("setpriv");
        child.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary).args(arguments);
        let output = child.env("HOME", place.path("")).output().unwrap();
        everyone(&place.path(name), 0o644);
        let (code, said) = (output.status.code(), said(&output));
        let file = place.path(name).file_name().unwrap().to_str().unwrap().to_owned();
        if code != Some(1) || !said.contains(&file) || !said.contains("Permission denied") {
            found.push(format!("{name}: {code:?} {said}"));
        }
    }
    none(found);
}

#[test]
fn lines_out_of_all_bounds_are_named() {
    let place = workplace();
    let requests = |text: Vec<u8>| {
        place.write("requests.jsonl", text);
        let arguments: Vec<String> = SCORE.iter().map(|word| in_place(word, &place)).collect();
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let good = json!({"id": 1, "prompt": "One"}).to_string();
    let messages = |content: serde_json::Value, count: usize| {
        let message = json!({"role": "user", "content": content});
        json!({"id": 2, "messages": vec![message; count]}).to_string()
    };
    let pictures = vec![json!({"type": "image", "image": "red.png"}); 100_000];
    let cases: [(&str, String, &str); 8] = [
        ("pictures in messages", messages(json!(pictures), 1), "100000 pictures, and at most 1024"),
        (
            "pictures of a prompt",
            json!({"id": 2, "prompt": "x", "images": vec!["red.png"; 100_000]}).to_string(),
            "100000 pictures, and at most 1024",
        ),
        ("messages", messages(json!("x"), 1_000_000), "1000000 messages, and at most 16384"),
        ("brackets", "[".repeat(1 << 20), "requests.jsonl:2: "),
        ("objects", "{\"a\":".repeat(1 << 20), "requests.jsonl:2: "),
        ("values", format!("[{}0]", "0,".repeat(5 << 20)), "more than 4194304 values"),
        ("zeros", "\0".repeat(1 << 20), "requests.jsonl:2: "),
        ("a word", format!("\"{}\"", "x".repeat(65 << 20)), "more than 67108864 bytes"),
    ];
    for (name, line, said_of_it) in cases {
        let Ending { code, said } = requests(format!("{good}\r\n{line}\n").into_bytes());
        assert!(
            code == Some(1) && said.contains("requests.jsonl:2: ") && said.contains(said_of_it),
            "{name}: {code:?} {said}"
        );
        assert!(said.len() < 10_000, "{name}: {} bytes of error", said.len());
    }
    // Rows of data have the same bounds.
    let row = |images: usize, messages: usize| {
        let messages = vec![json!({"role": "user", "content": "x"}); messages];
        json!({"messages": messages, "images": vec!["red.png"; images], "solution": "7", "question": "?"}).to_string()
    };
    for (text, said_of_it) in [(row(100_000, 1), "100000 pictures"), (row(0, 1_000_000), "1000000 messages")] {
        place.write("tasks.jsonl", text);
        let tasks = place.path("tasks.jsonl").display().to_string();
        let model = place.path("tiny").display().to_string();
        let Ending { code, said } = run(&["eval", "--model", &model, "--data", &tasks]);
        assert!(code == Some(1) && said.contains("tasks.jsonl:1: ") && said.contains(said_of_it), "{code:?} {said}");
    }
}
