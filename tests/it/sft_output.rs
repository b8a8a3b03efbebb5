//! `batch --sft-output`: trajectories become demonstrations that `method = "sft"` reads, token for token, also over a kill.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use thyme_engine::prompt::Processor;
use thyme_engine::prompt::image::decode_file;
use thyme_engine::recipe::TrainTurns;
use thyme_engine::tasks::jsonl;
use thyme_engine::tasks::needle::SYSTEM_PROMPT;
use thyme_engine::train::demonstration::sample;

use crate::support::command::{Workplace, succeed};

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
