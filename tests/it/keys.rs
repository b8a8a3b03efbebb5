//! Keys of a checkpoint's config files: each is used as transformers uses it, without effect, warned of, or refused by name. `tests/golden/keys` holds what transformers computes and writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::hub::keys::{self, Effect, Entry, GENERATION};
use thyme_engine::model::Keep;
use thyme_engine::model::config::Config;
use thyme_engine::model::families;
use thyme_engine::prompt::{self, read_image_settings};

use super::parity::{Golden, Run};
use crate::support::command::{Workplace, refuse, succeed, train};

/// Of a log-prob, absolute.
const LOGPROB: f64 = 1e-3;

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

pub(super) fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What is written to a subscriber.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `f` returns, and what it warns of.
pub(super) fn warned<T>(f: impl FnOnce() -> T) -> (T, String) {
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let returned = tracing::subscriber::with_default(subscriber, f);
    let text = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    (returned, text)
}

// ---- the tables ----

#[test]
fn the_page_shows_the_tables() {
    let path = root().join("src/hub/README.md");
    let wanted = keys::page(&families::key_sections());
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let fresh = root().join("target/hub_README.md");
    if page != wanted {
        std::fs::write(&fresh, &wanted).unwrap();
    }
    assert!(page == wanted, "{} is out of date; copy {} over it", path.display(), fresh.display());
}

#[test]
fn a_key_stands_in_one_entry_of_a_table() {
    let common = keys::SECTIONS.iter().map(|section| (section.title.to_owned(), section.entries));
    for (title, entries) in common.chain(families::key_sections()) {
        let mut seen = std::collections::BTreeSet::new();
        for name in entries.iter().flat_map(|entry| entry.names) {
            assert!(seen.insert(name), "{name} stands twice in the table of {title}");
        }
    }
}

#[derive(Deserialize)]
struct Files {
    origins: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

/// Each release's config, what four older versions of transformers and the present one wrote of it, and their other files.
#[test]
fn files_of_releases_and_of_transformers_are_read_without_a_warning() {
    let files: Files = serde_json::from_value(read(&root().join("tests/golden/keys/files.json"))).unwrap();
    let released = &files.origins["released"];
    let (mut configs, mut others) = (0, 0);
    for (origin, models) in &files.origins {
        for (model, files) in models {
            let place = tempfile::tempdir().unwrap();
            for (name, value) in files {
                std::fs::write(place.path().join(name), value.to_string()).unwrap();
            }
            if let Some(value) = files.get("config.json") {
                let found = Config::from_json(value).unwrap_or_else(|e| panic!("{origin} {model}: {e}"));
                let released = Config::from_json(&released[model]["config.json"]).unwrap();
                assert_eq!(found, released, "{origin} {model}");
                assert_eq!(Config::warnings(value), [] as [String; 0], "{origin} {model}");
                configs += 1;
            }
            if let Some(Value::Object(value)) = files.get("generation_config.json") {
                assert_eq!(keys::warnings(&[GENERATION], value, ""), [] as [String; 0], "{origin} {model}");
            }
            if files.contains_key("preprocessor_config.json") {
                let settings = read_image_settings(place.path()).unwrap();
                assert_eq!((settings.min_pixels, settings.max_pixels), (3136, 12_845_056), "{origin} {model}");
            }
            assert_eq!(prompt::warnings(place.path()), [] as [String; 0], "{origin} {model}");
            others += files.len();
        }
    }
    assert!(configs >= 30 && others >= 60, "{configs} configs, {others} files");
}

#[test]
fn the_shipped_checkpoints_are_read_without_a_warning() {
    for name in ["recipes/tiny", "recipes/tiny-sft", "tests/golden/model/qwen2_vl_untied_nested"] {
        let (opened, said) = warned(|| Checkpoint::open(root().join(name)));
        opened.unwrap();
        assert_eq!(said, "", "{name}");
    }
}

// ---- keys, against transformers ----

#[derive(Deserialize)]
struct Variants {
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
struct Variant {
    base: String,
    file: String,
    keys: Map<String, Value>,
    outcome: String,
    named: Vec<String>,
    logprobs: Option<Vec<f64>>,
}

impl Variant {
    /// The base checkpoint with the keys changed.
    fn folder(&self) -> tempfile::TempDir {
        let folder = copy(&Golden::open(&self.base).folder);
        let path = folder.path().join(&self.file);
        let mut json = read(&path);
        for (key, value) in &self.keys {
            let (parents, last) = key.rsplit_once('.').unwrap_or(("", key));
            let place =
                parents.split('.').filter(|part| !part.is_empty()).fold(&mut json, |place, part| &mut place[part]);
            match value {
                Value::Null => drop(place.as_object_mut().unwrap().shift_remove(last)),
                value => place[last] = value.clone(),
            }
        }
        std::fs::write(path, json.to_string()).unwrap();
        folder
    }

    /// The log-probs of the case `one`, as a command would compute them, or its refusal.
    fn logprobs(&self, folder: &Path) -> Result<Vec<f64>, String> {
        let checkpoint = Checkpoint::open(folder).map_err(|e| e.to_string())?;
        checkpoint.image_settings().map_err(|e| e.to_string())?;
        prompt::warnings(folder).iter().for_each(|warning| tracing::warn!("{warning}"));
        let golden = Golden::open(&self.base).with_folder(folder);
        let model = checkpoint.model(Arc::new(Cpu::new()));
        let weights = checkpoint.weights(&model).map_err(|e| e.to_string())?;
        let run = Run { model, weights, keep: Keep::Nothing };
        Ok(run.forward(&golden.input(&run.model.config, &[golden.case("one")])).logprobs())
    }
}

#[test]
fn a_key_is_used_as_in_transformers_or_warned_of_or_refused_by_name() {
    let variants: Variants = serde_json::from_value(read(&root().join("tests/golden/keys/variants.json"))).unwrap();
    assert!(variants.variants.len() >= 100);
    for variant in &variants.variants {
        let what = format!("{} {:?}", variant.base, variant.keys);
        let folder = variant.folder();
        let (found, said) = warned(|| variant.logprobs(folder.path()));
        let names = |text: &str| variant.named.iter().any(|name| text.contains(name.as_str()));
        if variant.outcome == "refused" {
            let message = found.expect_err(&what);
            assert!(names(&message), "{what}: {message}");
            continue;
        }
        let (found, wanted) =
            (found.unwrap_or_else(|e| panic!("{what}: {e}")), variant.logprobs.as_ref().expect(&what));
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() <= LOGPROB, "{what}: {found}, not {wanted}");
        }
        match variant.outcome.as_str() {
            "same" => assert_eq!(said, "", "{what}"),
            _ => assert!(names(&said), "{what}: {said:?}"),
        }
    }
}

// ---- the tables, key by key ----

pub(super) fn edit(file: &'static str, change: impl Fn(&mut Value) + 'static) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| {
        let path = folder.join(file);
        let mut json = if path.exists() { read(&path) } else { json!({}) };
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    })
}

pub(super) fn set(file: &'static str, key: &'static str, value: Value) -> Box<dyn Fn(&Path)> {
    edit(file, move |json| json[key] = value.clone())
}

/// What a folder makes of a text: token ids, and the log-probs of the base checkpoint's ids.
pub(super) fn read_folder(folder: &Path) -> Result<(Vec<u32>, Vec<f32>), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(folder)?;
    let vocab = checkpoint.config.vocab.max(1024);
    let wider = Checkpoint { config: Config { vocab, ..checkpoint.config.clone() }, ..checkpoint.clone() };
    let processor = wider.processor(None)?;
    let ids = processor.tokenizer().encode("One two <|im_start|>three<|extra|> four")?;
    let model = checkpoint.model(Arc::new(Cpu::new()));
    let weights = checkpoint.weights(&model)?;
    let batch = thyme_engine::model::batch::Batch {
        ids: (0..20).collect(),
        positions: (0..20).map(|i| [i; 3]).collect(),
        bounds: vec![0, 20],
        ..Default::default()
    };
    let (h, _) = model.forward(&weights, &batch, None, Keep::Nothing);
    Ok((ids, model.backend.to_f32(&model.logits(&weights, &h))))
}

/// transformers takes a switch that is null for off, and one that is absent for on.
#[test]
fn a_switch_that_is_null_is_off() {
    let small = root().join("recipes/tiny-sft");
    for key in ["do_resize", "do_rescale", "do_normalize"] {
        let folder = copy(&small);
        set("preprocessor_config.json", key, Value::Null)(folder.path());
        let error = read_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}` is null; only true is supported")), "{error}");
    }
    let logits = |truncate: Option<Value>| {
        let folder = copy(&small);
        edit("config.json", move |json| {
            let section = json["text_config"].is_object();
            let text = if section { &mut json["text_config"] } else { json };
            let mrope =
                ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| text[key].get("mrope_section").cloned());
            let mut yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
            yarn["mrope_section"] = mrope.unwrap_or_default();
            if let Some(truncate) = &truncate {
                yarn["truncate"] = truncate.clone();
            }
            text["rope_scaling"] = yarn;
            text.as_object_mut().unwrap().shift_remove("rope_parameters");
        })(folder.path());
        read_folder(folder.path()).unwrap().1
    };
    assert_eq!(logits(Some(Value::Null)), logits(Some(json!(false))));
    assert_ne!(logits(Some(Value::Null)), logits(None));
}

/// The place of a table's keys in the small shipped checkpoint, and what else must stand there for them to be read.
fn places() -> Vec<(&'static [Entry], &'static str, &'static [&'static str])> {
    vec![
        (keys::TOP, "config.json", &[]),
        (keys::TEXT, "config.json", &[]),
        (keys::ROPE, "config.json", &["rope_scaling"]),
        (keys::VISION, "config.json", &["vision_config"]),
        (families::find("qwen2_5_vl").unwrap().keys.vision, "config.json", &["vision_config"]),
        (keys::VISION_ROPE, "config.json", &["vision_config", "rope_parameters"]),
        (keys::ANY_LEVEL, "config.json", &["vision_config"]),
        (keys::PREPROCESSOR, "preprocessor_config.json", &[]),
        (keys::SIZE, "preprocessor_config.json", &["size"]),
        (keys::PROCESSOR, "processor_config.json", &[]),
        (keys::TOKENIZER, "tokenizer_config.json", &[]),
    ]
}

/// Used keys that this checkpoint has no use for: they are of another kind of scaling, or their value is any text.
const NOT_READ: [&str; 4] = ["head_dim", "eos_token_id", "chat_template", "model_type"];

/// Sets every key of the tables to what nobody writes there.
#[test]
fn every_key_of_the_tables_does_what_its_table_says() {
    let base = root().join("recipes/tiny-sft");
    let plain = read_folder(&base).unwrap();
    let (mut tried, mut faults) = (0, Vec::new());
    for (table, file, place) in places() {
        let is_of_top = |name: &str| keys::TOP.iter().any(|entry| entry.names.contains(&name));
        let named = table.iter().flat_map(|entry| entry.names.iter().map(move |name| (*name, entry.effect)));
        // What stands at the top level in any case is read there.
        for (name, effect) in named.filter(|(name, _)| std::ptr::eq(table, keys::TOP) || !is_of_top(name)) {
            for odd in [json!({"odd": 1}), json!(["odd", 7.5]), json!(-12345)] {
                let folder = copy(&base);
                let what = format!("{file} {place:?} {name} = {odd}");
                edit(file, move |json| {
                    let object = place.iter().fold(json, |json, part| {
                        if json[part].is_null() {
                            json[part] = json!({});
                        }
                        &mut json[part]
                    });
                    object[name] = odd.clone();
                })(folder.path());
                let (found, said) = warned(|| read_folder(folder.path()).map_err(|error| error.to_string()));
                let is_plain = found.as_ref() == Ok(&plain);
                let is_right = match (effect, &found) {
                    (Effect::Used, _) if NOT_READ.contains(&name) => continue,
                    (Effect::Used | Effect::Only(_), Err(message)) => message.contains(name),
                    (Effect::Used, Ok(_)) => said.contains(name),
                    (Effect::Unused, _) => is_plain && said.is_empty(),
                    (Effect::Ignored(_), _) => is_plain && said.contains(name),
                    (Effect::Only(_), Ok(_)) => false,
                };
                if !is_right {
                    faults.push(format!("{what}: {:?}, {said:?}", found.map(|_| ())));
                }
                tried += 1;
            }
        }
    }
    assert!(faults.is_empty(), "of {tried}:\n{}", faults.join("\n"));
    assert!(tried >= 500, "{tried}");
}

pub(super) const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
pub(super) const LFS: &[&str] = &["git-lfs pointer", "git lfs pull"];

// ---- a language model by itself ----

#[test]
fn keys_of_a_language_model_are_read_by_its_familys_tables() {
    let json = || read(&root().join("tests/golden/model/qwen3_vl_text/config.json"));
    let with = |key: &str, value: Value| {
        let mut json = json();
        let place = if key.starts_with("mrope") { &mut json["rope_parameters"] } else { &mut json };
        place[key] = value;
        json
    };
    assert_eq!(Config::warnings(&json()), [] as [String; 0]);
    for (key, value) in [("attention_bias", json!(true)), ("mrope_interleaved", json!(false))] {
        let error = Config::from_json(&with(key, value)).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let said = Config::warnings(&with("vision_config", json!({"depth": 2})));
    assert!(said.len() == 1 && said[0].contains("`vision_config`") && said[0].contains("no effect"), "{said:?}");
    let mut least = json();
    for key in ["head_dim", "rope_parameters", "rms_norm_eps", "max_position_embeddings"] {
        least.as_object_mut().unwrap().shift_remove(key);
    }
    let config = Config::from_json(&least).unwrap();
    assert_eq!((config.heads.head_dim, config.context_tokens, config.norm_epsilon), (128, 128_000, 1e-6));
    assert_eq!((config.rope.theta, config.rope.mrope_section), (500_000.0, [24, 20, 20]));
    assert_eq!((config.vision.is_some(), config.merge()), (false, 1));
}

#[test]
fn a_command_refuses_a_model_without_a_vision_tower() {
    let folder = root().join("tests/golden/model/qwen3_vl_text");
    for command in [&["generate", "--env", "none", "Hello", "--model"][..], &["serve", "--port", "0"]] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        program.args(command).arg(&folder);
        let said = refuse(program);
        assert!(said.contains("qwen3_vl_text") && said.contains("without a vision tower"), "{command:?}: {said}");
    }
}

// ---- commands ----

/// What `batch` answers to one prompt with a changed copy of the small shipped checkpoint, and what it says on the way.
fn answer(change: &dyn Fn(&Path), flags: &[&str]) -> (Value, String) {
    let folder = copy(&root().join("recipes/tiny-sft"));
    change(folder.path());
    let (input, output) = (folder.path().join("requests.jsonl"), folder.path().join("answers.jsonl"));
    std::fs::write(&input, r#"{"id": 1, "prompt": "One two"}"#).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("batch").arg("--model").arg(folder.path()).arg("--input").arg(&input).arg("--output").arg(&output);
    let said = succeed({
        command.args(["--max-tokens", "6"]).args(flags);
        command
    });
    (read(&output), said)
}

#[test]
fn generation_config_is_used_or_warned_of_once() {
    let file = "generation_config.json";
    let (sampled, _) = answer(&|_| {}, &[]);
    let (greedy, said) = answer(&|_| {}, &["--temperature", "0"]);
    assert!(sampled["token_ids"] != greedy["token_ids"] && !said.contains("WARN"), "{said}");
    let (found, _) = answer(&edit(file, |json| *json = json!({"do_sample": false, "temperature": 0.7})), &[]);
    assert_eq!(found["token_ids"], greedy["token_ids"]);
    for (key, value) in
        [("num_beams", json!(4)), ("suppress_tokens", json!([1])), ("max_length", json!(99)), ("dream", json!(1))]
    {
        let (found, said) = answer(&set(file, key, value), &["--temperature", "0"]);
        assert_eq!(found["token_ids"], greedy["token_ids"], "{key}");
        assert_eq!(said.matches(&format!("`{key}`")).count(), 1, "{said}");
    }
    // What ends an answer may stand in config.json alone.
    let first = greedy["token_ids"][0].clone();
    let ends = |folder: &Path| {
        std::fs::remove_file(folder.join(file)).unwrap();
        set("config.json", "eos_token_id", first.clone())(folder);
    };
    let (found, _) = answer(&ends, &["--temperature", "0"]);
    assert_eq!((&found["token_ids"], &found["finish_reason"]), (&json!([first]), &json!("stop")));
}

#[test]
fn a_pointer_to_generation_config_is_named() {
    let folder = copy(&root().join("recipes/tiny-sft"));
    std::fs::write(folder.path().join("generation_config.json"), POINTER).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.args(["generate", "--max-tokens", "1", "--env", "none", "--model"]).arg(folder.path()).arg("Hello");
    let said = refuse(command);
    assert!(LFS.iter().all(|part| said.contains(part)) && said.contains("generation_config.json"), "{said}");
}

#[test]
fn a_run_warns_of_a_key_once() {
    let place = Workplace::new();
    set("model/config.json", "logit_scale", json!(2))(&place.path(""));
    set("model/preprocessor_config.json", "sharpen", json!(2))(&place.path(""));
    let said = succeed(train(&place.sft("[data.needle]\n"), &["--set", "training.max_steps=1"]));
    for key in ["`logit_scale`", "`sharpen`"] {
        assert_eq!(said.matches(key).count(), 1, "{said}");
    }
}
