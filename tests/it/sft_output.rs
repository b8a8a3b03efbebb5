//! `batch --sft-output`: trajectories become demonstrations that `method = "sft"` reads, token for token, also over a kill. And rejection sampling by
//! `eval --write-demonstrations`: the accepted answers alone, which teach.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use thyme_engine::prompt::Processor;
use thyme_engine::prompt::image::decode_file;
use thyme_engine::recipe::TrainTurns;
use thyme_engine::tasks::jsonl;
use thyme_engine::tasks::needle::SYSTEM_PROMPT;
use thyme_engine::train::demonstration::sample;

use crate::support::command::{Workplace, refuse, succeed, train};

fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft"))
}

fn batch(workplace: &Workplace, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("batch").arg("--model").arg(model()).arg("--input").arg(workplace.path("in.jsonl"));
    command.arg("--output").arg(workplace.path("out.jsonl")).arg("--sft-output").arg(workplace.path("demo/sft.jsonl"));
    command.args(["--env", "think_with_code", "--seed", "5"]).args(flags);
    command
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn trajectories_become_demonstrations_with_their_tokens_also_over_a_kill() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("demo")).unwrap();
    let mut draw = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    draw.args(["data", "needle", "--count", "3", "--seed", "0", "--out"]).arg(workplace.path("needle"));
    succeed(draw);
    let request = |number: usize| {
        let image = format!("needle/images/{number:08}_00.png");
        let user =
            json!([{"type": "image", "image": image}, {"type": "text", "text": "\nWhat digit is on the red plate?"}]);
        json!({"id": number, "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user}]})
    };
    workplace.write("in.jsonl", (0..3).map(|number| format!("{}\n", request(number))).collect::<String>());
    succeed(batch(&workplace, &["--n", "4"]));
    let (out, sft) = (workplace.path("out.jsonl"), workplace.path("demo/sft.jsonl"));
    let replies = lines(&out);
    let ended = |reply: &&Value| ["answered", "end_of_turn"].contains(&reply["finish_reason"].as_str().unwrap());
    assert_eq!(lines(&sft).len(), replies.iter().filter(ended).count());
    let processor = Processor::open(model()).unwrap();
    let im_end = processor.special_ids().im_end;
    let mut crops = 0;
    for (row, record) in lines(&sft).iter().zip(jsonl::read(&sft).unwrap()) {
        crops += record.images.len() - 1;
        let images = record.images.iter().map(|path| decode_file(path).unwrap()).collect();
        let learned = sample(&processor, &record.with_images(images), TrainTurns::All).unwrap();
        let reply = &replies[row["reply"].as_u64().unwrap() as usize];
        let ids = ["prompt_token_ids", "token_ids"].into_iter().flat_map(|key| reply[key].as_array().unwrap());
        let mut ids: Vec<u32> = ids.map(|id| id.as_u64().unwrap() as u32).collect();
        if ids.last() != Some(&im_end) {
            ids.push(im_end);
        }
        assert_eq!(learned.ids, ids);
    }
    assert!(crops > 0, "some of the answers look at a crop");

    // As if the run had been killed in the fifth reply.
    let (whole_replies, whole_rows) = (std::fs::read_to_string(&out).unwrap(), std::fs::read_to_string(&sft).unwrap());
    let end = whole_replies.match_indices('\n').nth(4).unwrap().0 + 20;
    std::fs::write(&out, &whole_replies[..end]).unwrap();
    succeed(batch(&workplace, &["--n", "4", "--resume"]));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), whole_replies);
    assert_eq!(std::fs::read_to_string(&sft).unwrap(), whole_rows);
}

fn eval(workplace: &Workplace, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("eval").arg("--data").arg(workplace.path("needle/data.jsonl")).args(flags);
    command
}

/// Answers sampled by `eval` and by `batch` with the same seed are the same, so the one's replies say what the other's rows have to be.
#[test]
fn accepted_answers_become_demonstrations_with_the_tokens_and_the_mask_of_the_rollout() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("demo")).unwrap();
    let mut draw = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    draw.args(["data", "needle", "--count", "12", "--seed", "0", "--out"]).arg(workplace.path("needle"));
    succeed(draw);
    let tasks = jsonl::read(&workplace.path("needle/data.jsonl")).unwrap();
    let request = |(number, task): (usize, &jsonl::Record)| {
        let text = task.messages.last().unwrap().text.strip_prefix("<image>").unwrap();
        let user = json!([{"type": "image", "image": task.images[0]}, {"type": "text", "text": text}]);
        let messages = json!([{"role": "system", "content": task.messages[0].text}, {"role": "user", "content": user}]);
        format!("{}\n", json!({"id": number, "messages": messages}))
    };
    workplace.write("in.jsonl", tasks.iter().enumerate().map(request).collect::<String>());
    succeed(batch(&workplace, &["--n", "4", "--temperature", "1", "--code-temperature", "1", "--max-tokens", "256"]));
    let replies = lines(&workplace.path("out.jsonl"));

    let written = workplace.path("right/sft.jsonl");
    std::fs::create_dir(workplace.path("right")).unwrap();
    let path = written.to_str().unwrap();
    let sampled = ["--samples-per-task", "4", "--temperature", "1", "--seed", "5", "--max-total-tokens", "256"];
    let rows = |flags: &[&str]| {
        let mut command = eval(&workplace, &[&sampled[..], flags].concat());
        command.arg("--model").arg(model()).arg("--output").arg(workplace.path("report"));
        let said = succeed(command);
        (lines(&written), said)
    };
    let (all, _) = rows(&["--write-demonstrations", path]);
    let (right, said) = rows(&["--write-demonstrations", path, "--min-reward", "1.5"]);
    assert!(!right.is_empty() && right.len() < all.len(), "{} of {}", right.len(), all.len());
    assert!(said.contains(&format!("{} of 48 answers, to ", right.len())), "{said}");
    let answers = lines(&workplace.path("report/samples.jsonl"));
    let processor = Processor::open(model()).unwrap();
    for (row, record) in right.iter().zip(jsonl::read(&written).unwrap()) {
        let place = row["reply"].as_u64().unwrap() as usize;
        assert!(answers[place]["reward"].as_f64().unwrap() >= 1.5);
        let images = record.images.iter().map(|path| decode_file(path).unwrap()).collect();
        let learned = sample(&processor, &record.with_images(images), TrainTurns::All).unwrap();
        let list = |key: &str| replies[place][key].as_array().unwrap().clone();
        let [prompt, completion] = ["prompt_token_ids", "token_ids"].map(list);
        let ids: Vec<u64> = prompt.iter().chain(&completion).map(|id| id.as_u64().unwrap()).collect();
        assert!(learned.ids.iter().zip(&ids).all(|(&learned, &id)| u64::from(learned) == id), "reply {place}");
        // Behind the rollout stands at most the end of the message, which is learned too.
        assert!((ids.len()..=ids.len() + 1).contains(&learned.ids.len()));
        let own = list("logprobs").into_iter().map(|logprob| !logprob.is_null());
        let mask: Vec<bool> = vec![false; prompt.len()].into_iter().chain(own).collect();
        assert_eq!(learned.trained[..mask.len()], mask, "reply {place}");
        assert!(learned.trained[mask.len()..].iter().all(|learned| *learned));
    }
    let (few, _) = rows(&["--write-demonstrations", path, "--min-reward", "1.5", "--max-per-task", "1"]);
    let tasks_of = |rows: &[Value]| rows.iter().map(|row| row["reply"].as_u64().unwrap() / 4).collect::<Vec<_>>();
    let mut once = tasks_of(&right);
    once.dedup();
    assert_eq!(tasks_of(&few), once, "one of each task that has one");
    let tokens = |row: &Value| answers[row["reply"].as_u64().unwrap() as usize]["tokens"].as_u64().unwrap();
    for row in &few {
        let of_task = right.iter().filter(|other| tasks_of(&[(*other).clone()]) == tasks_of(std::slice::from_ref(row)));
        assert!(of_task.map(tokens).all(|others| tokens(row) <= others), "the shortest");
    }
}

#[test]
fn answers_that_would_be_the_same_or_do_not_fit_are_refused_before_a_model_is_loaded() {
    let workplace = Workplace::new();
    let refused = |flags: &[&str]| refuse(eval(&workplace, &[&["--model", "nowhere"], flags].concat()));
    let said = refused(&["--samples-per-task", "4"]);
    assert!(said.contains("all 4 samples of a task would be the same; give --temperature 1"), "{said}");
    let said = refused(&["--samples-per-task", "65", "--temperature", "1"]);
    assert!(said.contains("--samples-per-task is 65; raise --max-num-seqs, 64"), "{said}");
    let said = refused(&["--temperature", "nan"]);
    assert!(said.contains("--temperature is NaN; it must be 0 or more"), "{said}");
}

/// eval, demonstrations, SFT: a few steps on accepted answers make the model look more often, and be right more often, on tasks that it has not seen.
#[test]
fn a_few_steps_on_accepted_answers_raise_the_mean_reward() {
    let workplace = Workplace::new();
    let mut draw = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    draw.args(["data", "needle", "--count", "32", "--seed", "1", "--out"]).arg(workplace.path("needle"));
    succeed(draw);
    let path = workplace.path("sft.jsonl");
    let mut sampled = eval(&workplace, &["--samples-per-task", "4", "--temperature", "1", "--min-reward", "1.5"]);
    sampled.args(["--max-total-tokens", "256", "--max-per-task", "2"]).arg("--write-demonstrations").arg(&path);
    sampled.arg("--model").arg(model());
    succeed(sampled);
    let text = format!(
        "method = \"sft\"\nname = \"run\"\noutput_dir = {:?}\n[model]\npath = {:?}\n[data]\nfiles = [{path:?}]\n\
         [optimizer]\nlearning_rate = 3e-4\n[training]\nmax_steps = 8\nbatch_size = 16\n",
        workplace.path("runs"),
        model()
    );
    let recipe = workplace.write("rft.toml", text);
    succeed(train(&recipe, &[]));
    let measure = |checkpoint: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.args(["eval", "--limit", "96", "--max-total-tokens", "256", "--temperature", "1", "--model"]);
        command.arg(checkpoint).arg("--output").arg(workplace.path("report"));
        succeed(command);
        let report = std::fs::read(workplace.path("report/results.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        ["reward", "tool_use"].map(|name| report[name].as_f64().unwrap())
    };
    let [reward, looks] = measure(model());
    let [learned_reward, learned_looks] = measure(&workplace.path("runs/run/checkpoint-8"));
    println!("reward {reward} -> {learned_reward}, tool use {looks} -> {learned_looks}");
    assert!(learned_reward > reward + 0.1, "{reward} -> {learned_reward}");
    assert!(learned_looks > looks, "{looks} -> {learned_looks}");
}

#[test]
fn an_output_that_is_no_demonstrations_and_a_batch_without_an_environment_are_refused() {
    let workplace = Workplace::new();
    workplace.write("in.jsonl", "{\"id\": 1, \"prompt\": \"a\"}\n{\"id\": 2, \"prompt\": \"b\"}\n");
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let mut plain = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    plain.args(["batch", "--model"]).arg(model()).arg("--input").arg(workplace.path("in.jsonl"));
    plain.arg("--output").arg(workplace.path("out.jsonl")).arg("--sft-output").arg(workplace.path("sft.jsonl"));
    assert!(refused(plain).contains("--sft-output takes the trajectories of an environment; name one with --env"));
    std::fs::create_dir(workplace.path("demo")).unwrap();
    workplace.write("demo/sft.jsonl", "{\"question\": \"q\", \"response\": \"r\"}\n");
    workplace.write("out.jsonl", "{\"id\": 1}\n");
    let said = refused(batch(&workplace, &["--resume"]));
    assert!(said.contains("line 1 of") && said.contains("is no row of `batch --sft-output`; choose another"), "{said}");
}
