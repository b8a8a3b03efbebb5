//! Keys of a checkpoint's config files, and folders that are no plain checkpoint: each is used as transformers uses it, without effect,
//! warned of, or refused by name. `tests/golden/keys` holds what transformers computes and writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thyme_engine::checkpoint::{self, CheckpointError, processor, weights};
use thyme_engine::cpu::Cpu;
use thyme_engine::hub::keys::{self, GENERATION};
use thyme_engine::model::config::Config;
use thyme_engine::model::{Keep, Model};
use thyme_engine::prompt::{self, Processor, read_image_settings};

use super::command::{Workplace, refuse, succeed, train};
use super::parity::{Golden, Run};

/// Of a log-prob, absolute.
const LOGPROB: f64 = 1e-3;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn read(path: &Path) -> Value {
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
fn warned<T>(f: impl FnOnce() -> T) -> (T, String) {
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
    let (page, wanted) = (std::fs::read_to_string(&path).unwrap_or_default(), keys::page());
    let fresh = root().join("target/hub_README.md");
    if page != wanted {
        std::fs::write(&fresh, wanted).unwrap();
    }
    assert!(page == keys::page(), "{} is out of date; copy {} over it", path.display(), fresh.display());
}

#[test]
fn a_key_stands_in_one_entry_of_a_table() {
    for section in &keys::SECTIONS {
        let mut seen = std::collections::BTreeSet::new();
        for name in section.entries.iter().flat_map(|entry| entry.names) {
            assert!(seen.insert(name), "{name} stands twice in the table of {}", section.title);
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
        let (opened, said) = warned(|| checkpoint::config::open(&root().join(name)));
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
        let config = checkpoint::config::open(folder).map_err(|e| e.to_string())?;
        let settings = read_image_settings(folder).map_err(|e| e.to_string())?;
        processor::check_images(&settings, &config, folder).map_err(|e| e.to_string())?;
        prompt::warnings(folder).iter().for_each(|warning| tracing::warn!("{warning}"));
        let golden = Golden::open(&self.base).with_folder(folder);
        let model = Model::new(config, Arc::new(Cpu::new()));
        let weights = weights::load(&model, folder).map_err(|e| e.to_string())?;
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

// ---- folders ----

/// What a folder is expected to give.
enum Wanted {
    /// What the plain one gives, and no warning.
    Same,
    /// What the plain one gives, and a warning with these parts.
    Warned(&'static [&'static str]),
    /// Something else, and a warning with these parts.
    Other(&'static [&'static str]),
    /// An error with these parts.
    Refused(&'static [&'static str]),
}

use Wanted::{Other, Refused, Same, Warned};

/// A change of a folder, and what it should give.
type Change = (&'static str, Box<dyn Fn(&Path)>, Wanted);

fn edit(file: &'static str, change: impl Fn(&mut Value) + 'static) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| {
        let path = folder.join(file);
        let mut json = if path.exists() { read(&path) } else { json!({}) };
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    })
}

fn set(file: &'static str, key: &'static str, value: Value) -> Box<dyn Fn(&Path)> {
    edit(file, move |json| json[key] = value.clone())
}

fn write(file: &'static str, text: &'static str) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| std::fs::write(folder.join(file), text).unwrap())
}

/// In place of the weights.
fn instead(file: &'static str) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        std::fs::write(folder.join(file), "something").unwrap();
    })
}

type Stored = (String, safetensors::Dtype, Vec<usize>, Vec<u8>);

fn tensors(change: impl Fn(&mut Vec<Stored>) + 'static) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut stored: Vec<Stored> = file
            .iter()
            .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        change(&mut stored);
        let views = stored.iter().map(|(name, dtype, shape, bytes)| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    })
}

fn renamed(rename: impl Fn(&str) -> String + 'static) -> Box<dyn Fn(&Path)> {
    tensors(move |stored| stored.iter_mut().for_each(|tensor| tensor.0 = rename(&tensor.0)))
}

fn added(name: &'static str) -> Box<dyn Fn(&Path)> {
    tensors(move |stored| {
        let mut tensor = stored[0].clone();
        tensor.0 = name.to_owned();
        stored.push(tensor);
    })
}

/// A head beside the embedding table, of which `change` makes another one.
fn head(change: impl Fn(&mut Vec<u8>) + 'static) -> Box<dyn Fn(&Path)> {
    tensors(move |stored| {
        let mut head = stored.iter().find(|tensor| tensor.0 == "model.embed_tokens.weight").unwrap().clone();
        head.0 = "lm_head.weight".to_owned();
        change(&mut head.3);
        stored.push(head);
    })
}

fn token(content: &str, special: bool) -> Value {
    json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": special})
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
const LFS: &[&str] = &["git-lfs pointer", "git lfs pull"];

/// Changes of the small shipped checkpoint. Which are used shows in the token ids and log-probs of a text.
fn changes() -> Vec<Change> {
    let (config, tokenizer) = ("config.json", "tokenizer_config.json");
    let (single, index) = ("model.safetensors", "model.safetensors.index.json");
    vec![
        // Weights.
        ("a head that equals the table", head(|_| {}), Same),
        ("another head", head(|bytes| bytes.swap(0, 1)), Other(&["tie_word_embeddings", "lm_head.weight"])),
        ("a head alone", renamed(|name| name.replace("model.embed_tokens", "lm_head")), Same),
        ("DataParallel", renamed(|name| format!("module.{name}")), Warned(&["module."])),
        ("torch.compile", renamed(|name| format!("_orig_mod.{name}")), Warned(&["_orig_mod."])),
        ("both", renamed(|name| format!("module._orig_mod.{name}")), Warned(&["module._orig_mod."])),
        (
            "FSDP inside",
            renamed(|name| name.replace("layers.0.", "layers.0._fsdp_wrapped_module.")),
            Warned(&["_fsdp_wrapped_module"]),
        ),
        ("names of transformers 5", renamed(|name| name.replace("model.layers", "model.language_model.layers")), Same),
        ("a tensor twice", added("module.model.norm.weight"), Refused(&["module.model.norm.weight", "same tensor"])),
        ("PEFT's names", renamed(|name| format!("base_model.model.{name}")), Refused(&["base_model.model.", "merge"])),
        ("a LoRA inside", added("model.layers.0.mlp.up_proj.lora_A.default.weight"), Refused(&["lora_A", "merge"])),
        ("AWQ", added("model.layers.0.mlp.up_proj.qweight"), Refused(&["qweight", "quantised"])),
        ("FP8", added("model.layers.0.mlp.up_proj.weight_scale_inv"), Refused(&["weight_scale_inv", "quantised"])),
        ("bitsandbytes", added("model.layers.0.mlp.up_proj.weight.absmax"), Refused(&["absmax", "quantised"])),
        ("a value head", added("v_head.summary.weight"), Warned(&["v_head.summary.weight", "not used"])),
        ("a layer too many", added("model.layers.9.mlp.up_proj.weight"), Warned(&["layers.9", "not used"])),
        ("an old table", added("model.layers.0.self_attn.rotary_emb.inv_freq"), Same),
        ("another prefix", renamed(|name| format!("policy.{name}")), Refused(&["no tensor", "`policy."])),
        (
            "a stale index",
            write(index, r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#),
            Warned(&["model.safetensors.index.json"]),
        ),
        ("a broken index", write(index, "{"), Warned(&["model.safetensors.index.json"])),
        (
            "an adapter beside",
            write("adapter_config.json", r#"{"base_model_name_or_path": "org/m"}"#),
            Refused(&["LoRA", "org/m", "merge"]),
        ),
        ("an adapter alone", instead("adapter_model.safetensors"), Refused(&["LoRA", "merge"])),
        ("a pickle", instead("pytorch_model.bin"), Refused(&["pytorch_model.bin", "save_pretrained"])),
        (
            "shards of FSDP",
            instead("model_world_size_8_rank_0.pt"),
            Refused(&["model_world_size_8_rank_0.pt", "merge"]),
        ),
        ("a GGUF", instead("model-Q4_K_M.gguf"), Refused(&["model-Q4_K_M.gguf", "llama.cpp"])),
        ("Flax", instead("flax_model.msgpack"), Refused(&["flax_model.msgpack", "safetensors"])),
        (
            "a shard without its index",
            instead("model-00001-of-00002.safetensors"),
            Refused(&["model-00001-of-00002", "index"]),
        ),
        (
            "nothing",
            Box::new(|folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap()),
            Refused(&["neither model.safetensors"]),
        ),
        (
            "a run's folder",
            Box::new(|folder| {
                std::fs::remove_file(folder.join("model.safetensors")).unwrap();
                for step in ["checkpoint-10", "checkpoint-9"] {
                    std::fs::create_dir(folder.join(step)).unwrap();
                    std::fs::write(folder.join(step).join("config.json"), "{}").unwrap();
                }
                std::fs::write(folder.join("training_args.bin"), "x").unwrap();
            }),
            Refused(&["checkpoint-10", "give that folder"]),
        ),
        ("a pointer to weights", write(single, POINTER), Refused(LFS)),
        ("a pointer to the config", write(config, POINTER), Refused(LFS)),
        ("a pointer to the tokenizer", write("tokenizer.json", POINTER), Refused(LFS)),
        ("a pointer to its config", write(tokenizer, POINTER), Refused(LFS)),
        ("a pointer to the picture settings", write("preprocessor_config.json", POINTER), Refused(LFS)),
        ("a pointer to the template", write("chat_template.jinja", POINTER), Refused(LFS)),
        (
            "cut weights",
            Box::new(|folder| {
                let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
                std::fs::write(folder.join("model.safetensors"), &bytes[..bytes.len() / 3]).unwrap();
            }),
            Refused(&["damaged or incomplete"]),
        ),
        // config.json.
        (
            "GPTQ",
            set(config, "quantization_config", json!({"quant_method": "gptq"})),
            Refused(&["quantization_config", "gptq"]),
        ),
        (
            "bitsandbytes's config",
            set(config, "quantization_config", json!({"load_in_4bit": true})),
            Refused(&["quantization_config"]),
        ),
        ("an unknown key", set(config, "logit_scale", json!(2)), Warned(&["`logit_scale`"])),
        ("a null", set(config, "quantization_config", Value::Null), Same),
        ("dropout", set(config, "attention_dropout", json!(0.1)), Warned(&["`attention_dropout` is 0.1"])),
        ("a mixture", set(config, "num_experts", json!(8)), Warned(&["`num_experts`"])),
        // tokenizer_config.json.
        (
            "Llama's",
            set(tokenizer, "tokenizer_class", json!("LlamaTokenizer")),
            Refused(&["tokenizer_class", "LlamaTokenizer"]),
        ),
        ("a space before", set(tokenizer, "add_prefix_space", json!(true)), Refused(&["add_prefix_space"])),
        ("split specials", set(tokenizer, "split_special_tokens", json!(true)), Refused(&["split_special_tokens"])),
        ("a beginning", set(tokenizer, "add_bos_token", json!(true)), Same),
        ("lower case", set(tokenizer, "do_lower_case", json!(true)), Same),
        ("clean-up", set(tokenizer, "clean_up_tokenization_spaces", json!(true)), Same),
        ("a length", set(tokenizer, "model_max_length", json!(4)), Same),
        (
            "an unknown key of the tokenizer",
            set(tokenizer, "dropout", json!(0.1)),
            Warned(&["tokenizer_config.json", "`dropout`"]),
        ),
        ("code", set(tokenizer, "auto_map", json!({"AutoTokenizer": ["a.B", null]})), Warned(&["`auto_map`"])),
        (
            "a token at an id of another",
            edit(tokenizer, |json| json["added_tokens_decoder"]["5"] = token("<|extra|>", true)),
            Refused(&["<|extra|>", "5", "same checkpoint"]),
        ),
        (
            "a token behind a gap",
            edit(tokenizer, |json| json["added_tokens_decoder"]["900"] = token("<|extra|>", true)),
            Refused(&["<|extra|>", "900"]),
        ),
        (
            "two tokens swapped",
            edit(tokenizer, |json| json["added_tokens_decoder"]["760"] = token("<|quad_start|>", true)),
            Refused(&["<|quad_start|>", "760"]),
        ),
        (
            "a token that takes spaces",
            edit(tokenizer, |json| json["added_tokens_decoder"]["760"]["lstrip"] = json!(true)),
            Refused(&["<|box_end|>", "lstrip"]),
        ),
        (
            "a token without text",
            edit(tokenizer, |json| json["added_tokens_decoder"]["768"] = json!({"special": true})),
            Refused(&["768", "content"]),
        ),
        (
            "a token in added_tokens.json beside the decoder",
            set("added_tokens.json", "<|extra|>", json!(768)),
            Warned(&["added_tokens.json", "<|extra|>"]),
        ),
        // preprocessor_config.json and processor_config.json.
        ("another filter", set("preprocessor_config.json", "resample", json!(0)), Refused(&["resample", "bicubic"])),
        (
            "a filter in the whole processor",
            set("processor_config.json", "image_processor", json!({"resample": 2})),
            Refused(&["processor_config.json", "resample"]),
        ),
        (
            "other settings in the whole processor",
            set("processor_config.json", "image_processor", json!({"patch_size": 14, "max_pixels": 50176})),
            Warned(&["preprocessor_config.json", "not read beside processor_config.json"]),
        ),
        ("an unknown key of the processor", set("processor_config.json", "dropout", json!(1)), Warned(&["`dropout`"])),
        ("videos", write("video_preprocessor_config.json", r#"{"fps": 1, "anything": 2}"#), Same),
        (
            "settings of no object",
            write("preprocessor_config.json", "[]"),
            Refused(&["preprocessor_config.json", "object"]),
        ),
    ]
}

/// What a folder makes of a text: token ids, and the log-probs of the base checkpoint's ids.
fn read_folder(folder: &Path) -> Result<(Vec<u32>, Vec<f32>), Box<dyn std::error::Error>> {
    let config = checkpoint::config::open(folder)?;
    let processor = processor::open(folder, &Config { vocab: config.vocab.max(1024), ..config.clone() })?;
    let ids = processor.tokenizer().encode("One two <|im_start|>three<|extra|> four")?;
    let model = Model::new(config, Arc::new(Cpu::new()));
    let weights = weights::load(&model, folder)?;
    let batch = thyme_engine::model::batch::Batch {
        ids: (0..20).collect(),
        positions: (0..20).map(|i| [i; 3]).collect(),
        bounds: vec![0, 20],
        ..Default::default()
    };
    let (h, _) = model.forward(&weights, &batch, None, Keep::Nothing);
    Ok((ids, model.backend.to_f32(&model.logits(&weights, &h))))
}

#[test]
fn a_folder_is_read_as_transformers_reads_it_or_named_with_the_remedy() {
    let base = root().join("recipes/tiny-sft");
    let plain = read_folder(&base).unwrap();
    let changes = changes();
    assert!(changes.len() >= 50, "{}", changes.len());
    for (name, change, wanted) in changes {
        let folder = copy(&base);
        change(folder.path());
        let (found, said) = warned(|| read_folder(folder.path()));
        let holds = |text: &str, parts: &[&str]| {
            for part in parts {
                assert!(text.contains(part), "{name}: {part:?} is not in {text:?}");
            }
        };
        let found = found.map_err(|error| error.to_string());
        match wanted {
            Refused(parts) => holds(&found.map(|_| ()).expect_err(name), parts),
            Same => assert_eq!(
                (found.unwrap_or_else(|e| panic!("{name}: {e}")), said.as_str()),
                (plain.clone(), ""),
                "{name}"
            ),
            Warned(parts) => {
                assert!(found.unwrap_or_else(|e| panic!("{name}: {e}")) == plain, "{name}: other results");
                holds(&said, parts);
            }
            Other(parts) => {
                assert!(found.unwrap_or_else(|e| panic!("{name}: {e}")) != plain, "{name}: the same results");
                holds(&said, parts);
            }
        }
    }
}

/// Ids as transformers 5.17 gives them to the same folders.
#[test]
fn tokens_that_the_tokenizer_lacks_are_added_as_in_transformers() {
    let file = "tokenizer_config.json";
    let extra = "<|extra|>";
    let ids = |change: Box<dyn Fn(&Path)>| {
        let folder = copy(&root().join("recipes/tiny-sft"));
        change(folder.path());
        let processor = Processor::open(folder.path()).unwrap();
        let tokenizer = processor.tokenizer();
        let ids = tokenizer.encode("a<|im_start|>b<|box_end|>c <|extra|> d").unwrap();
        (ids, tokenizer.len(), tokenizer.decode(&[64, 768, 65], true))
    };
    let wanted = vec![64, 755, 65, 760, 66, 220, 768, 220, 67];
    let special = (wanted.clone(), 769, "ab".to_owned());
    assert_eq!(ids(edit(file, |json| json["added_tokens_decoder"]["768"] = token("<|extra|>", true))), special);
    assert_eq!(ids(set(file, "eos_token", json!(extra))), special);
    assert_eq!(ids(set(file, "unk_token", token("<|extra|>", true))), special);
    assert_eq!(ids(set(file, "foo_token", json!(extra))), special);
    assert_eq!(ids(set(file, "extra_special_tokens", json!([extra]))), special);
    assert_eq!(ids(set(file, "extra_special_tokens", json!({"image_token": extra}))), special);
    let plain = (wanted, 769, "a<|extra|>b".to_owned());
    assert_eq!(ids(edit(file, |json| json["added_tokens_decoder"]["768"] = token("<|extra|>", false))), plain);
    let without_decoder: Box<dyn Fn(&Path)> = Box::new(|folder| {
        edit("tokenizer_config.json", |json| drop(json.as_object_mut().unwrap().remove("added_tokens_decoder")))(
            folder,
        );
        std::fs::write(folder.join("added_tokens.json"), r#"{"<|extra|>": 768}"#).unwrap();
    });
    assert_eq!(ids(without_decoder), plain);
}

/// A checkpoint whose head is not the table that its config says is saved so that everybody reads the head.
#[test]
fn a_saved_checkpoint_says_whether_its_head_is_the_table() {
    let folder = copy(&root().join("recipes/tiny-sft"));
    head(|bytes| bytes.swap(0, 1))(folder.path());
    let model = Model::new(checkpoint::config::open(folder.path()).unwrap(), Arc::new(Cpu::new()));
    assert!(!model.config.tied);
    let weights = weights::load(&model, folder.path()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let saved = place.path().join("saved");
    checkpoint::folder::save(&model, &weights, folder.path(), &saved, |_| Ok(())).unwrap();
    let (config, said) = warned(|| checkpoint::config::open(&saved).unwrap());
    assert_eq!((config, said.as_str()), (model.config.clone(), ""));
    assert_eq!(read(&saved.join("config.json"))["tie_word_embeddings"], false);
    // Where the model is made already, the same folder is refused instead.
    let tied = Model::new(Config { tied: true, ..model.config.clone() }, Arc::new(Cpu::new()));
    assert!(matches!(weights::load(&tied, folder.path()), Err(CheckpointError::OwnHead(_))));
}

#[test]
fn the_files_beside_the_weights_travel_with_them() {
    let folder = copy(&root().join("recipes/tiny-sft"));
    let settings = read(&folder.path().join("preprocessor_config.json"));
    std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    let whole = json!({"image_processor": settings, "processor_class": "Qwen2_5_VLProcessor"});
    std::fs::write(folder.path().join("processor_config.json"), whole.to_string()).unwrap();
    let place = tempfile::tempdir().unwrap();
    checkpoint::folder::copy_companions(folder.path(), place.path()).unwrap();
    assert_eq!(read_image_settings(place.path()).unwrap(), read_image_settings(folder.path()).unwrap());
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

/// A server's weights are replaced only by those of the same computation.
#[test]
fn weights_of_another_computation_are_not_read_over_the_present_ones() {
    let folder = copy(&root().join("recipes/tiny-sft"));
    let model = Model::new(checkpoint::config::open(folder.path()).unwrap(), Arc::new(Cpu::new()));
    let mut weights = weights::load(&model, folder.path()).unwrap();
    weights::reload(&model, &mut weights, folder.path()).unwrap();
    let (version, theta) = (weights.version, set("config.json", "rope_theta", json!(5000)));
    theta(folder.path());
    let refused = weights::reload(&model, &mut weights, folder.path());
    assert!(matches!(refused, Err(CheckpointError::OtherConfig(_))), "{refused:?}");
    assert_eq!(weights.version, version);
}
