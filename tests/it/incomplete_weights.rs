//! A server whose new weights were read in part only: it generates nothing, says so, and a whole folder heals it.

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use thyme_engine::checkpoint::weights::{self, ReloadError};
use thyme_engine::cli::serve::ServingArguments;
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::serve;

use crate::support::command::Workplace;
use crate::support::server::{TIMEOUT, init};

/// Positions of the model.
const CONTEXT: usize = 1 << 16;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serving: ServingArguments,
}

/// Reads weights as a server does, but a folder named `shrinks` loses its end between the passes.
fn reload(model: &Model, weights: &mut Weights, dir: &Path) -> Result<(), ReloadError> {
    let checked = weights::check(model, dir).map_err(ReloadError::Refused)?;
    if dir.ends_with("shrinks") {
        let file = std::fs::OpenOptions::new().write(true).open(dir.join("model.safetensors")).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }
    checked.copy(model, weights).map_err(ReloadError::Incomplete)
}

#[test]
fn half_read_weights_answer_nobody_until_a_whole_folder_is_read() {
    let place = Workplace::new();
    // Answers may be so long that none ends by itself while the test goes on, however slow the machine is.
    let file = place.path("model/config.json");
    let mut model_config: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    model_config["max_position_embeddings"] = json!(CONTEXT);
    std::fs::write(&file, model_config.to_string()).unwrap();
    ["tiny", "shrinks", "other"].into_iter().zip(0..).for_each(|(name, seed)| init(&place, name, seed));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let model = place.path("tiny").display().to_string();
    // It serves until the test's process ends.
    std::thread::spawn(move || {
        let mut arguments = Arguments::parse_from(["serve", "--max-num-seqs", "2"]).serving;
        arguments.program = env!("CARGO_BIN_EXE_thyme-engine").into();
        let config = arguments.config(&model).unwrap();
        serve::run(serve::ServerConfig { names: vec!["tiny".to_owned()], reload, ..config }, listener).unwrap();
    });
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let agent = config.timeout_global(Some(TIMEOUT)).build().new_agent();
    let post = |path: &str, body: Value| {
        let request = agent.post(format!("http://{address}{path}")).content_type("application/json");
        let mut response = request.send(body.to_string()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    let health = || {
        let mut response = agent.get(format!("http://{address}/health")).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    let update = |name: &str| post("/update_weights", json!({"weight_dir": place.path(name)}));
    let complete = |more: Value| {
        let mut body = json!({"prompt": "red plate", "max_tokens": 4, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("/v1/completions", body)
    };
    let chat =
        || post("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "?"}], "max_tokens": 4}));
    let (status, before) = complete(json!({}));
    assert_eq!((status, health().0), (200, 200), "{before}");

    // A stream and a whole answer are under way, and more wait than are decoded.
    let long = json!({"max_tokens": CONTEXT - 100, "ignore_eos": true, "n": 4, "logprobs": 0});
    let (first, began) = channel();
    let (streamed, whole) = std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut body = json!({"prompt": "red", "temperature": 0, "stream": true});
            body.as_object_mut().unwrap().extend(long.as_object().unwrap().clone());
            let request = agent.post(format!("http://{address}/v1/completions")).content_type("application/json");
            let response = request.send(body.to_string()).unwrap();
            let mut reader = std::io::BufReader::new(response.into_body().into_reader());
            let mut text = String::new();
            std::io::BufRead::read_line(&mut reader, &mut text).unwrap();
            first.send(()).unwrap();
            std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
            text
        });
        let whole = scope.spawn(|| complete(long.clone()));
        began.recv_timeout(TIMEOUT).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let (status, said) = update("shrinks");
        assert_eq!(status, 503, "{said}");
        assert!(said.contains("incomplete") && said.contains("became shorter while it was read"), "{said}");
        (stream.join().unwrap(), whole.join().unwrap())
    });
    assert!(
        streamed.contains("incomplete_weights") && !streamed.contains("\"finish_reason\":\"length\""),
        "{streamed}"
    );
    assert_eq!(whole.0, 503, "{}", whole.1);

    let is_refused = |(status, said): (u16, String)| {
        assert_eq!(status, 503, "{said}");
        assert!(said.contains("POST /update_weights") && said.contains("model.safetensors"), "{said}");
    };
    let all_refused = || {
        is_refused(health());
        is_refused(complete(json!({})));
        is_refused(complete(json!({"stream": true})));
        is_refused(complete(json!({"echo": true, "logprobs": 0})));
        is_refused(chat());
        is_refused(post("/inference/v1/generate", json!({"token_ids": [1], "sampling_params": {"max_tokens": 1}})));
    };
    all_refused();
    // What is refused before it is read heals nothing.
    assert_eq!(update("missing").0, 400);
    assert_eq!(update("shrinks").0, 400);
    all_refused();

    assert_eq!(update("tiny").0, 200);
    assert_eq!(health().0, 200);
    let text = |said: &str| serde_json::from_str::<Value>(said).unwrap()["choices"][0]["text"].clone();
    assert_eq!(text(&complete(json!({})).1), text(&before), "the same weights, the same answer");
    assert_eq!((chat().0, update("other").0, chat().0), (200, 200, 200));
}
