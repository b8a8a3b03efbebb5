//! Arguments of chat templates that a recipe gives: to the policy's template, to that of a judge in this process, and to a judge's server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::prompt::{Message, Processor, RenderOptions};
use thyme_engine::rollout::judge::Judge;
use thyme_engine::rollout::judges::openai::OpenAiJudge;
use thyme_engine::rollout::judges::settings::{BaseUrl, JudgeSettings};
use thyme_engine::train::local_judge::LocalJudge;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};
use crate::support::fake_judge::{Act, FakeJudge};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft");

/// `{"enable_thinking": false}`.
fn no_thinking() -> Map<String, Value> {
    Map::from_iter([("enable_thinking".to_owned(), Value::Bool(false))])
}

/// A template that refuses every conversation of which it is not told that the model shall not think.
const REFUSES: &str =
    "{% if enable_thinking is not defined or enable_thinking %}{{ raise_exception('it would think') }}{% endif %}";

/// A copy of the tiny model with something before its chat template.
fn with_template(place: &Workplace, before: &str) -> PathBuf {
    for entry in std::fs::read_dir(MODEL).unwrap() {
        let path = entry.unwrap().path();
        place.write(&format!("judge/{}", path.file_name().unwrap().to_str().unwrap()), std::fs::read(&path).unwrap());
    }
    let template = std::fs::read_to_string(Path::new(MODEL).join("chat_template.jinja")).unwrap();
    place.write("judge/chat_template.jinja", format!("{before}{template}"));
    place.path("judge")
}

#[test]
fn a_conversation_has_the_processors_variables_unless_it_says_another() {
    let place = Workplace::new();
    let folder = with_template(&place, "{{ enable_thinking }} {{ style }} ");
    let kwargs = json!({"enable_thinking": false, "style": "short"}).as_object().unwrap().clone();
    let processor = Processor::open(&folder).unwrap().with_template_variables(kwargs);
    let messages = [Message::text("user", "Hello")];
    let text = |variables: Value| {
        let variables = variables.as_object().unwrap().clone();
        processor.render(&messages, &RenderOptions { variables, ..RenderOptions::default() }).unwrap()
    };
    assert!(text(json!({})).starts_with("False short "), "{}", text(json!({})));
    assert!(text(json!({"style": "long"})).starts_with("False long "));
}

#[test]
fn the_policys_template_is_told_in_every_prompt() {
    let place = Workplace::new();
    let template = std::fs::read_to_string(place.path("model/chat_template.jinja")).unwrap();
    place.write("model/chat_template.jinja", format!("{REFUSES}{template}"));
    let recipe = place.grpo("[data.needle]\n[evaluation]\ntasks = 1\n");
    assert_names(&succeed(train(&recipe, &["--set", "training.max_steps=1"])), &["left out", "it would think"]);
    let kwargs = ["--set", "model.chat_template_kwargs={enable_thinking=false}", "--set", "training.max_steps=1"];
    let said = succeed(train(&recipe, &[&kwargs[..], &["--overwrite"]].concat()));
    assert!(!said.contains("left out"), "{said}");
    let resolved = std::fs::read_to_string(place.path("runs/run/recipe.toml")).unwrap();
    assert!(resolved.contains("enable_thinking = false"), "{resolved}");
    let said = succeed(train(&place.sft("[data.needle]\n"), &[&kwargs[..], &["--overwrite"]].concat()));
    assert!(!said.contains("left out"), "{said}");

    let set = ["--dry-run", "--set", "model.chat_template_kwargs={messages=[]}"];
    assert_names(&refuse(train(&recipe, &set)), &["`model.chat_template_kwargs`", "\"messages\"", "remove"]);
    let judge =
        place.grpo("[data.needle]\n[reward.judge]\nmodel_path = \"model\"\nchat_template_kwargs = { tools = [] }\n");
    assert_names(&refuse(train(&judge, &["--dry-run"])), &["chat_template_kwargs has \"tools\"", "remove"]);
}

#[test]
fn a_server_gets_them_in_each_request_and_no_field_without_them() {
    let server = FakeJudge::scripted(&[Act::says("yes")]);
    for (chat_template_kwargs, wanted) in
        [(no_thinking(), json!({"enable_thinking": false})), (Map::new(), Value::Null)]
    {
        let settings = JudgeSettings {
            base_url: BaseUrl::One(server.address.clone()),
            model: "m".to_owned(),
            chat_template_kwargs,
            ..JudgeSettings::default()
        };
        assert_eq!(OpenAiJudge::new(&settings).unwrap().ask("", "Is it?").unwrap(), "yes");
        let request = server.requests().pop().unwrap();
        assert_eq!(
            (request["chat_template_kwargs"].clone(), request.get("chat_template_kwargs").is_some()),
            (wanted.clone(), !wanted.is_null())
        );
    }
}

#[test]
fn a_judge_in_this_process_tells_its_template() {
    let place = Workplace::new();
    let folder = with_template(&place, REFUSES);
    let checkpoint = Checkpoint::open(folder.to_str().unwrap()).unwrap();
    let ask = |chat_template_kwargs| {
        let settings = JudgeSettings {
            model_path: Some(folder.to_str().unwrap().to_owned()),
            max_tokens: 4,
            chat_template_kwargs,
            ..JudgeSettings::default()
        };
        let processor = Arc::new(checkpoint.processor(None).unwrap());
        LocalJudge::start(&checkpoint, processor, Arc::new(Cpu::new()), &settings).unwrap().ask("", "Say a number.")
    };
    assert!(ask(no_thinking()).is_ok());
    assert_names(&ask(Map::new()).unwrap_err().to_string(), &["it would think"]);
}
