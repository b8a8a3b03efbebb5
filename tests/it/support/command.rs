//! A tiny model and the binary, for tests that run whole commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with a model of 0.15 M parameters, which has no weights of its own.
pub struct Workplace {
    folder: TempDir,
}

impl Workplace {
    pub fn new() -> Workplace {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"] {
            std::fs::copy(tiny.join(name), model.join(name)).unwrap();
        }
        let text = std::fs::read_to_string(tiny.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("hidden_size", 64),
            ("intermediate_size", 96),
            ("num_attention_heads", 2),
            ("num_key_value_heads", 1),
            ("num_hidden_layers", 2),
        ] {
            config[key] = value.into();
        }
        for (key, value) in [("hidden_size", 64), ("intermediate_size", 96), ("num_heads", 2), ("out_hidden_size", 64)]
        {
            config["vision_config"][key] = value.into();
        }
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
        Workplace { folder }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A recipe of supervised fine-tuning in this folder; further TOML may follow in `more`.
    pub fn sft(&self, more: &str) -> PathBuf {
        let text = format!(
            "method = \"sft\"\nname = \"run\"\noutput_dir = {:?}\nseed = 7\n[model]\npath = \"model\"\nrandom_weights = true\n\
             freeze_vision_tower = false\nfreeze_merger = false\n[optimizer]\nlearning_rate = 1e-3\n\
             [training]\nmax_steps = 12\nbatch_size = 2\nmicro_batch_tokens = 512\nsave_steps = 1\n{more}",
            self.path("runs")
        );
        self.write("sft.toml", text)
    }

    /// A recipe of GRPO in this folder. Random weights earn no reward: decay moves them, and the reference pulls them back.
    pub fn grpo(&self, more: &str) -> PathBuf {
        let text = format!(
            "method = \"grpo\"\nname = \"run\"\noutput_dir = {:?}\nseed = 7\n[model]\npath = \"model\"\nrandom_weights = true\n\
             [optimizer]\nlearning_rate = 1e-2\nweight_decay = 0.5\n[training]\nmax_steps = 6\nsave_steps = 1\n\
             [grpo]\nprompts_per_step = 2\nnum_generations = 2\nbeta = 0.1\nfilter_zero_advantage = false\n\
             mask_truncated_completions = false\n[sampling]\ncode_temperature = 0.0\n\
             [environment]\nmax_total_tokens = 32\nmax_turn_tokens = 32\n{more}",
            self.path("runs")
        );
        self.write("grpo.toml", text)
    }
}

/// `thyme-engine train RECIPE ARGUMENTS…`, its output kept.
pub fn train(recipe: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("train").arg(recipe).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command wrote, both streams.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that works.
pub fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}

/// Runs a command that refuses, with one line of error and without a panic.
pub fn refuse(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
    assert!(said.contains("error: ") && !said.contains("panicked"), "{command:?}: {said}");
    said
}

/// Asserts that a message says all of these.
pub fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in:\n{message}");
    }
}
