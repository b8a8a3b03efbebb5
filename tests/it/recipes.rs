//! Recipes: what they say, what they may not say, how they combine, and what a plan of one needs.

use std::path::Path;

use proptest::prelude::*;
use thyme_engine::recipe::Recipe;
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::optimizer::Schedule;
use thyme_engine::recipe::plan::{Plan, PlanError};
use thyme_engine::sandbox::{Guarantee, SandboxError};
use thyme_engine::telemetry::memory::available_bytes;
use thyme_engine::train::memory_plan::MemoryPlan;
use thyme_engine::train::sizes::memory_plan;
use thyme_engine::{cpu, cuda};

use crate::support::command::{Workplace, assert_names, succeed, train};

/// The message of a recipe, changed by settings, that cannot be read or planned.
fn refusal(recipe: &Path, settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    match load(recipe, &settings) {
        Err(error) => error.to_string(),
        Ok(recipe) => Plan::new(recipe, &Default::default()).expect_err("the recipe cannot be planned").to_string(),
    }
}

#[test]
fn the_shipped_recipes_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let recipes: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(recipes.len() >= 3);
    for recipe in recipes {
        let read = load(&recipe, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!read.name.is_empty() && !read.model.path.is_empty(), "{}", recipe.display());
    }
}

#[test]
fn the_settings_of_every_experiment_fit_its_recipe() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/experiments");
    let text = std::fs::read_to_string(folder.join("experiments.toml")).unwrap();
    let experiments: toml::Table = text.parse().unwrap();
    let experiments = experiments["experiment"].as_array().unwrap();
    assert!(!experiments.is_empty());
    let strings = |value: Option<&toml::Value>| -> Vec<String> {
        let entries = value.and_then(toml::Value::as_array).into_iter().flatten();
        entries.map(|entry| entry.as_str().unwrap().to_owned()).collect()
    };
    for experiment in experiments {
        let (name, arms) = (experiment["name"].as_str().unwrap(), experiment["arms"].as_table().unwrap());
        assert!(arms.len() > 1 && !experiment["hypothesis"].as_str().unwrap().is_empty(), "{name}");
        for start in strings(experiment.get("starts")) {
            load(&folder.join(start), &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for (arm, settings) in arms {
            let settings = [strings(experiment.get("common")), strings(Some(settings))].concat();
            let recipe = load(&folder.join(experiment["recipe"].as_str().unwrap()), &settings)
                .unwrap_or_else(|error| panic!("{name}, {arm}: {error}"));
            match Plan::new(recipe, &Default::default()) {
                // It begins with what another recipe makes.
                Ok(_) | Err(PlanError::Checkpoint(_)) => {}
                Err(error) => panic!("{name}, {arm}: {error}"),
            }
        }
    }
}

#[test]
fn an_unknown_key_stands_under_a_caret_beside_the_nearest_known_one() {
    let place = Workplace::new();
    let recipe = place.write("recipe.toml", "name = \"a\"\n\n[optimizer]\nlearning_rat = 1e-3\n");
    assert_names(
        &refusal(&recipe, &[]),
        &[
            "recipe.toml",
            "line 4, column 1",
            "4 | learning_rat = 1e-3",
            "^^^^^^^^^^^^",
            "did you mean `learning_rate`?",
        ],
    );
    let recipe = place.write("recipe.toml", "metod = \"sft\"\n");
    assert_names(&refusal(&recipe, &[]), &["metod", "did you mean `method`?"]);
    let recipe = place.write("recipe.toml", "[grpo]\nloss_type = \"gppo\"\n");
    assert_names(&refusal(&recipe, &[]), &["gppo", "did you mean `grpo`?"]);
    let recipe = place.write("recipe.toml", "[training]\nextends = \"other.toml\"\n");
    assert_names(&refusal(&recipe, &[]), &["extends", "line 2"]);
}

#[test]
fn a_value_of_the_wrong_type_is_shown_where_it_stands() {
    let place = Workplace::new();
    for (text, parts) in [
        ("[training]\nmax_steps = \"ten\"\n", ["line 2, column 13", "string \"ten\"", "u64"]),
        ("[training]\nmax_steps = -1\n", ["line 2", "-1", "u64"]),
        ("[grpo]\nbeta = true\n", ["line 2", "boolean `true`", "f64"]),
        ("[data]\nfiles = \"a.jsonl\"\n", ["line 2", "string \"a.jsonl\"", "sequence"]),
        ("name = \"a\nseed = 1\n", ["line 1", "name = \"a", "^"]),
        ("[data\n", ["line 1", "[data", "^"]),
    ] {
        assert_names(&refusal(&place.write("recipe.toml", text), &[]), &parts);
    }
}

#[test]
fn settings_change_single_keys_and_are_checked_as_files_are() {
    let place = Workplace::new();
    let recipe = place.sft("[data.needle]\n");
    let settings = ["training.max_steps=3", "name=other", "optimizer.lr_scheduler_type=linear", "data.needle.seed=5"];
    let read = load(&recipe, &settings.map(str::to_owned)).unwrap();
    assert_eq!((read.training.max_steps, &*read.name, read.training.batch_size), (Some(3), "other", 2));
    assert_eq!(read.optimizer.lr_scheduler_type, Schedule::Linear);
    assert_eq!(read.data.needle.unwrap().seed, Some(5));
    assert_names(
        &refusal(&recipe, &["training.max_step=3"]),
        &["--set training.max_step=3", "did you mean `max_steps`?"],
    );
    assert_names(
        &refusal(&recipe, &["training.max_steps=three"]),
        &["--set training.max_steps=three", "\"three\"", "u64"],
    );
    assert_names(&refusal(&recipe, &["max_steps"]), &["--set max_steps", "key=value"]);
    assert_names(&refusal(&recipe, &["optimizer.optim=adamw_8bits"]), &["adamw_8bits", "did you mean `adamw_8bit`?"]);
    assert_names(&refusal(&recipe, &["=3"]), &["--set =3"]);
    assert_names(&refusal(&recipe, &["a b=3"]), &["--set a b=3"]);
}

#[test]
fn a_recipe_can_do_without_a_guarantee_as_the_error_says() {
    let error = SandboxError::NoWall { guarantee: Guarantee::Reads, breaches: Vec::new() }.to_string();
    let setting = error.split('`').nth(1).unwrap().replace(" = ", "=");
    let recipe = load(&Workplace::new().sft("[data.needle]\n"), &[setting]).unwrap();
    assert_eq!(recipe.tool.named("python")[0].1["consent"], toml::Value::from(vec!["reads"]));
}

#[test]
fn a_recipe_names_one_tool_or_several() {
    let place = Workplace::new();
    for (tool, names) in [
        ("", &[][..]),
        ("[tool]\ntimeout_seconds = 1.0\n", &["python"]),
        ("[[tool]]\nname = \"crop\"\n[[tool]]\nname = \"flip\"\naxis = 1\n", &["crop", "flip"]),
    ] {
        let recipe = load(&place.sft(&format!("[data.needle]\n{tool}")), &[]).unwrap();
        let named: Vec<String> = recipe.tool.named("python").into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, names);
        assert_eq!(toml::from_str::<Recipe>(&recipe.to_toml()).unwrap(), recipe, "{}", recipe.to_toml());
    }
}

#[test]
fn a_recipe_extends_another_key_by_key_and_paths_follow_their_file() {
    let place = Workplace::new();
    place.write("base/tasks.jsonl", "");
    place.write(
        "base/base.toml",
        "seed = 1\nname = \"base\"\n[data]\nfiles = [\"tasks.jsonl\"]\n[training]\nmax_steps = 5\nsave_steps = 2\n",
    );
    let recipe = place.write("own.toml", "extends = \"base/base.toml\"\nname = \"own\"\n[training]\nmax_steps = 7\n");
    let read = load(&recipe, &[]).unwrap();
    assert_eq!((&*read.name, read.seed), ("own", 1));
    assert_eq!((read.training.max_steps, read.training.save_steps), (Some(7), 2));
    assert_eq!(read.data.files, [place.path("base/tasks.jsonl")]);
    place.write("base/base.toml", "sede = 1\n");
    assert_names(&refusal(&recipe, &[]), &["base.toml", "sede", "did you mean `seed`?"]);
}

#[test]
fn circles_and_missing_files_are_named() {
    let place = Workplace::new();
    let recipe = place.write("a.toml", "extends = \"b.toml\"\n");
    assert_names(&refusal(&recipe, &[]), &["cannot read recipe", "b.toml"]);
    place.write("b.toml", "extends = \"a.toml\"\n");
    assert_names(&refusal(&recipe, &[]), &["circle", ".toml"]);
    assert_names(&refusal(&place.path("none.toml"), &[]), &["cannot read recipe", "none.toml"]);
    assert_names(&refusal(&place.path(""), &[]), &["cannot read recipe"]);
}

#[test]
fn contradictions_are_refused_with_a_remedy() {
    let place = Workplace::new();
    let sft = place.sft("[data.needle]\n");
    let grpo = place.grpo("[data.needle]\n");
    let bare = place.write("bare.toml", "name = \"a\"\n[model]\npath = \"model\"\n");
    for (recipe, settings, parts) in [
        (&bare, &[][..], &["does not say `data`", "[data.needle]"][..]),
        (&bare, &["data.needle.seed=1", "model.path=\"\""], &["does not say `model.path`"]),
        (&bare, &["data.needle.seed=1", "model.path=nobody/nothing"], &["`nobody/nothing`", "folder"]),
        (&sft, &["name=\"\""], &["`name`", "plain name"]),
        (&sft, &["name=../x"], &["`name`", "plain name"]),
        (&sft, &["data.files=[\"a.jsonl\"]"], &["`data.files`", "[data.needle]"]),
        (&sft, &["model.min_pixels=900", "model.max_pixels=800"], &["`model.min_pixels` is 900", "800"]),
        (&sft, &["data.needle.mixture={look=0.0}"], &["data.needle.mixture", "above 0"]),
        (&sft, &["data.needle.mixture={look=-1.0, read=2.0}"], &["data.needle.mixture", "-1"]),
        (
            &sft,
            &["data.needle.variant=dark", "data.needle.mixture={caption=1.0}"],
            &["data.needle.mixture", "dark", "look"],
        ),
        (
            &sft,
            &["data.needle.variant=dark", "data.needle.mixture={look_twice=1.0}"],
            &["data.needle.mixture", "dark", "look_twice"],
        ),
        (&sft, &["data.needle.mixture={look_twice=1.0}"], &["data.needle.mixture", "plain task"]),
        (&grpo, &["sampling.temperature=0.0"], &["`sampling.temperature` is 0", "the same"]),
        (&grpo, &["data.needle.mixture={look=1.0}"], &["data.needle.mixture", "sft"]),
        (&grpo, &["grpo.num_generations=1"], &["`grpo.num_generations` is 1", "from 2"]),
        (&grpo, &["environment.max_cod_runs=1"], &["`environment`", "max_cod_runs", "did you mean `max_code_runs`?"]),
        (&grpo, &["environment.max_code_runs=many"], &["`environment`", "many"]),
        (&grpo, &["environment.name=think"], &["think", "think_with_code"]),
        (&grpo, &["tool.name=perl"], &["perl", "python"]),
        (&grpo, &["tool.timeout_second=1.0"], &["`tool`", "did you mean `timeout_seconds`?"]),
        (&grpo, &["tool.timeout_seconds=0.0"], &["timeout_seconds is 0", "above 0"]),
        (&grpo, &["tool.timeout_seconds=nan"], &["timeout_seconds is NaN", "above 0"]),
        (&grpo, &["tool.memory_mib=0"], &["memory_mib is 0", "from 1"]),
        (&grpo, &["tool.disk_mib=9223372036854775807"], &["disk_mib is 9223372036854775807", "to 1048576"]),
        (&grpo, &["reward.weights={answr=1.0}"], &["answr", "answer"]),
        (
            &grpo,
            &["tool=[{name=\"python\"}, {name=\"perl\"}]"],
            &["\"think_with_code\" calls one tool", "python, perl"],
        ),
        (&grpo, &["tool=[{timeout_seconds=0.0}]"], &["timeout_seconds is 0", "above 0"]),
        (&grpo, &["reward.settings.answr.ask_judge=true"], &["answr", "answer"]),
        (&grpo, &["reward.settings.answer.ask_judges=true"], &["`reward`", "did you mean `ask_judge`?"]),
        (&grpo, &["reward.settings.answer.ask_judge=true"], &["reward.judge", "\"answer\""]),
        (&grpo, &["reward.judge.base_url=localhost"], &["reward.judge", "\"localhost\"", "http://"]),
        (&grpo, &["reward.judge.url=localhost"], &["`url`", "`base_url`"]),
        (&grpo, &["reward.weights={answer=nan}"], &["answer", "NaN", "finite"]),
    ] {
        assert_names(&refusal(recipe, settings), parts);
    }
}

#[test]
fn numbers_that_cannot_be_are_refused_by_name() {
    let place = Workplace::new();
    let recipe = place.grpo("[data.needle]\n");
    for (key, values) in [
        ("optimizer.learning_rate", &["nan", "inf", "-1.0", "0.0"][..]),
        ("optimizer.weight_decay", &["nan", "-0.1", "inf"]),
        ("optimizer.adam_beta1", &["1.0", "-0.1", "nan"]),
        ("optimizer.adam_beta2", &["1.0", "nan"]),
        ("optimizer.adam_epsilon", &["0.0", "nan"]),
        ("optimizer.max_grad_norm", &["-1.0", "nan"]),
        ("optimizer.min_lr_rate", &["1.5", "nan"]),
        ("optimizer.warmup_ratio", &["-0.1", "2.0"]),
        ("grpo.beta", &["-0.1", "nan", "inf"]),
        ("grpo.epsilon", &["-0.1", "nan"]),
        ("grpo.epsilon_high", &["-0.1", "nan"]),
        ("grpo.prompts_per_step", &["0", "9000000000000000000"]),
        ("grpo.num_generations", &["0", "1"]),
        ("grpo.num_iterations", &["0"]),
        ("sampling.temperature", &["-1.0", "nan", "inf"]),
        ("sampling.code_temperature", &["-1.0", "nan"]),
        ("sampling.top_p", &["0.0", "1.1", "nan"]),
        ("sampling.min_p", &["-0.1", "2.0"]),
        ("sampling.repetition_penalty", &["0.0", "-1.0", "nan"]),
        ("training.max_steps", &["0", "9223372036854775807"]),
        ("training.batch_size", &["0"]),
        ("training.micro_batch_tokens", &["0"]),
        ("training.logging_steps", &["0"]),
        ("training.max_skipped_updates", &["0"]),
        ("training.warn_kl", &["-1.0", "nan"]),
        ("environment.max_total_tokens", &["0", "9223372036854775807"]),
        ("environment.max_turn_tokens", &["0"]),
        ("engine.max_num_seqs", &["0"]),
        ("engine.prefill_chunk_tokens", &["0"]),
        ("model.max_pixels", &["0", "9223372036854775807"]),
        ("evaluation.tasks", &["9223372036854775807"]),
    ] {
        for value in values {
            assert_names(&refusal(&recipe, &[&format!("{key}={value}")]), &[&format!("`{key}` is "), ": give "]);
        }
    }
}

/// The published config of Qwen2.5-VL-7B-Instruct, what does not shape the computation left out; the image token is our tokenizer's.
pub const QWEN_2_5_VL_7B: &str = r#"{"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "image_token_id": 766, "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
    "max_position_embeddings": 128000, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": false, "vocab_size": 152064,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
    "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "temporal_patch_size": 2}}"#;

/// The released shapes of Qwen2-VL-2B, with the tiny tokenizer's placeholder.
pub const QWEN_2_VL_2B: &str = r#"{"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
    "image_token_id": 766, "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 32768, "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true, "vocab_size": 151936,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}}"#;

fn memory(recipe: &Path, settings: &[&str]) -> MemoryPlan {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let plan = Plan::new(load(recipe, &settings).unwrap(), &Default::default()).unwrap();
    memory_plan(&plan, &plan.processor().unwrap(), cuda::FOOTPRINT)
}

fn bytes(memory: &MemoryPlan, start: &str) -> u128 {
    memory.terms.iter().find(|term| term.name.starts_with(start)).map_or(0, |term| term.bytes)
}

#[test]
fn the_plan_of_a_7b_adds_up_to_its_published_size() {
    let place = Workplace::new();
    place.write("model/config.json", QWEN_2_5_VL_7B);
    let recipe = place.grpo("[data.needle]\n");
    let whole = memory(&recipe, &["model.freeze_vision_tower=false", "model.freeze_merger=false"]);
    assert_eq!((whole.parameters, whole.trained), (8_292_166_656, 8_292_166_656));
    // The tower's MLP is 3420 wide and held as 3424: gate and up with their offsets, and down, of 32 blocks.
    let held: u128 = 8_292_166_656 + 32 * (8 * 1280 + 8 + 4 * 1280);
    for (term, bytes_each) in [("weights", 2), ("master", 2), ("moments", 8), ("gradients", 4), ("reference", 2)] {
        assert_eq!(bytes(&whole, term), bytes_each * held, "{term}");
    }
    assert!(whole.to_string().contains("8.29 G"));
    let refused = whole.check(100 << 30).unwrap_err().to_string();
    assert_names(&refused, &["107.37 GB are available", "moments", "66.34 GB", "model.path"]);
    whole.check(u64::MAX).unwrap();

    let whole_8bit = ["model.freeze_vision_tower=false", "model.freeze_merger=false", "optimizer.optim=adamw_8bit"];
    let eight_bit = memory(&recipe, &whole_8bit);
    // Per element two codes, and two scales of 4 bytes for 256; norms and biases are too few to show.
    let share = bytes(&eight_bit, "moments (8 bits)") as f64 / 8_292_166_656.0;
    assert!((share - (2.0 + 8.0 / 256.0)).abs() < 0.002, "{share} bytes of moments an element");
    assert_eq!(bytes(&whole, "moments (fp32)") + bytes(&eight_bit, "moments (fp32)"), 8 * held);
    assert_names(&refused, &["`optimizer.optim` to \"adamw_8bit\""]);

    let frozen = memory(&recipe, &[]);
    assert!(frozen.trained < whole.trained && bytes(&frozen, "moments") < bytes(&whole, "moments"));
    assert_eq!(bytes(&memory(&recipe, &["grpo.beta=0.0"]), "reference"), 0);
    let recomputed = memory(&recipe, &["model.activation_recompute=true", "training.micro_batch_tokens=65536"]);
    let kept = memory(&recipe, &["training.micro_batch_tokens=65536"]);
    assert!(5 * bytes(&recomputed, "activations of a micro") < 2 * bytes(&kept, "activations of a micro"));
    let pages = memory(&recipe, &["grpo.prompts_per_step=1000000"]);
    assert_names(&pages.check(1 << 37).unwrap_err().to_string(), &["keys and values", "grpo.prompts_per_step"]);
    let wide = memory(&recipe, &["training.micro_batch_tokens=10000000"]);
    assert_names(
        &wide.check(1 << 37).unwrap_err().to_string(),
        &["activations", "training.micro_batch_tokens", "activation_recompute"],
    );
}

#[test]
fn on_the_cpu_the_plan_counts_what_is_kept_for_products() {
    let place = Workplace::new();
    place.write("model/config.json", QWEN_2_VL_2B);
    let recipe = place.grpo("[data.needle]\n");
    let plan = Plan::new(load(&recipe, &[]).unwrap(), &Default::default()).unwrap();
    let on_cpu = memory_plan(&plan, &plan.processor().unwrap(), cpu::FOOTPRINT);
    // qkv, o and down of a layer; qkv, o and both of the MLP of a block; patch embedding; the merger's second. The other matrices are larger.
    let layer = 2048 * 1536 + 1536 * 1536 + 1536 * 8960;
    let block = 3 * 1280 * 1280 + 1280 * 1280 + 2 * 1280 * 5120;
    let packed = 2 * (28 * layer + 32 * block + 1280 * 1176 + 5120 * 1536);
    assert_eq!(bytes(&on_cpu, "weights, packed"), packed);
    let on_gpu = memory(&recipe, &[]);
    assert_eq!(bytes(&on_gpu, "weights, packed"), 0);
    assert_eq!(bytes(&on_cpu, "reference") - bytes(&on_gpu, "reference"), packed);
}

#[test]
fn a_dry_run_shows_the_plan_and_loads_nothing() {
    let place = Workplace::new();
    let said = succeed(train(&place.grpo("[data.needle]\n"), &["--dry-run"]));
    assert_names(
        &said,
        &[
            "max_total_tokens = 32",
            "weights (bf16)",
            "reference (bf16)",
            "keys and values",
            "most at a time",
            "available",
        ],
    );
    assert!(!place.path("runs").exists(), "nothing is written");
    assert!(available_bytes() > Some(1 << 20));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_text_makes_the_recipe_reader_panic(text in ".{0,60}\\n?(\\[[a-z.]{0,12}\\]\\n)?([a-z_]{0,12} = .{0,20}\\n){0,3}", setting in ".{0,20}=?.{0,20}") {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("recipe.toml");
        std::fs::write(&path, &text).unwrap();
        let _ = load(&path, &[]);
        std::fs::write(&path, "").unwrap();
        let _ = load(&path, &[setting]);
    }

    #[test]
    fn no_bytes_make_the_recipe_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("recipe.toml");
        std::fs::write(&path, &bytes).unwrap();
        let _ = load(&path, &[]);
    }
}
