//! Checkpoint folders that were changed: each is read as transformers reads it, or named with the remedy.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use thyme_engine::checkpoint::weights::ReloadError;
use thyme_engine::checkpoint::{self, Checkpoint, CheckpointError, weights};
use thyme_engine::cpu::Cpu;
use thyme_engine::model::Model;
use thyme_engine::model::config::Config;
use thyme_engine::prompt::{Processor, read_image_settings};

use super::keys::{LFS, POINTER, copy, edit, read, read_folder, root, set, warned};

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
        (
            "an adapter as PEFT saves it",
            Box::new(|folder| {
                std::fs::remove_file(folder.join("config.json")).unwrap();
                std::fs::rename(folder.join("model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
                std::fs::write(folder.join("adapter_config.json"), r#"{"base_model_name_or_path": "org/m"}"#).unwrap();
            }),
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
            "a token that tokenizer.json alone has",
            edit(tokenizer, |json| drop(json["added_tokens_decoder"].as_object_mut().unwrap().remove("760"))),
            Warned(&["added_tokens_decoder lacks", "<|box_end|>"]),
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
    let model = Checkpoint::open(folder.path()).unwrap().model(Arc::new(Cpu::new()));
    assert!(!model.config.tied);
    let weights = Checkpoint::open(folder.path()).unwrap().weights(&model).unwrap();
    let place = tempfile::tempdir().unwrap();
    let saved = place.path().join("saved");
    checkpoint::folder::save(&model, &weights, folder.path(), &saved, |_| Ok(())).unwrap();
    let (config, said) = warned(|| Checkpoint::open(&saved).unwrap().config);
    assert_eq!((config, said.as_str()), (model.config.clone(), ""));
    assert_eq!(read(&saved.join("config.json"))["tie_word_embeddings"], false);
    // Where the model is made already, the same folder is refused instead.
    let tied = Model::new(Config { tied: true, ..model.config.clone() }, Arc::new(Cpu::new()));
    assert!(matches!(Checkpoint::open(folder.path()).unwrap().weights(&tied), Err(CheckpointError::OwnHead(_))));
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

/// A server's weights are replaced only by those of the same computation.
#[test]
fn weights_of_another_computation_are_not_read_over_the_present_ones() {
    let folder = copy(&root().join("recipes/tiny-sft"));
    let model = Checkpoint::open(folder.path()).unwrap().model(Arc::new(Cpu::new()));
    let mut weights = Checkpoint::open(folder.path()).unwrap().weights(&model).unwrap();
    weights::reload(&model, &mut weights, folder.path()).unwrap();
    let (version, theta) = (weights.version, set("config.json", "rope_theta", json!(5000)));
    theta(folder.path());
    let refused = weights::reload(&model, &mut weights, folder.path());
    assert!(matches!(refused, Err(ReloadError::Refused(CheckpointError::OtherConfig(_)))), "{refused:?}");
    assert_eq!(weights.version, version);
}
