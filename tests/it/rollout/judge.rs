//! A judge behind an endpoint, which the answer reward asks where no rule can say.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use thyme_engine::rollout::Group;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::task::Task;

use super::roll;
use crate::support::chat_endpoint::{endpoint, says};

const PROSE: &str = "The man in the picture is holding a large red umbrella";

fn rewards(settings: &str) -> Result<RewardSet, String> {
    let settings: RewardSettings = toml::from_str(settings).unwrap();
    RewardSet::new(&settings, &Registry::default()).map_err(|error| error.to_string())
}

fn answer(rewards: &RewardSet, answer: &str) -> Score {
    let trajectory = roll(&format!("<think>x</think>\n<answer>{answer}</answer>"));
    let solution = PROSE.into();
    let view = View::new(&trajectory, "What does he hold?", &solution);
    rewards.score_group(&[view]).remove(0).part("answer").unwrap().clone()
}

#[test]
fn the_judge_is_asked_where_no_rule_can_say() {
    let replies = vec![says("Yes."), says("no"), says("Perhaps"), (500, "{}".into()), (200, "{}".into())];
    let (address, requests) = endpoint(replies);
    let rewards = rewards(&format!(
        "settings.answer.ask_judge = true\n[judge]\nbase_url = \"{address}/\"\nmodel = \"a judge\"\napi_key_env = \"PATH\"\n\
         max_retries = 0\nretry_seconds = 0.0\ncache = \"never\""
    ));
    let rewards = rewards.unwrap();
    assert_eq!(answer(&rewards, PROSE), Score::Value(1.0), "by rule, and not asked");
    assert_eq!(answer(&rewards, "An umbrella"), Score::Value(1.0));
    assert_eq!(answer(&rewards, "A sword"), Score::Value(0.0));
    for part in ["neither yes nor no: \"Perhaps\"", "500", "sent no message: {}"] {
        match answer(&rewards, "An umbrella") {
            Score::Unscored(reason) => assert!(reason.contains(part), "{reason}"),
            Score::Value(value) => panic!("{value} for {part}"),
        }
    }
    let requests = requests.join().unwrap();
    let (lines, body) = &requests[0];
    assert!(lines[0].starts_with("POST /v1/chat/completions "), "{lines:?}");
    let key = format!("Bearer {}", std::env::var("PATH").unwrap());
    assert!(lines.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: {key}"))), "{lines:?}");
    assert_eq!((&body["model"], &body["temperature"]), (&json!("a judge"), &json!(0.0)));
    let user = body["messages"][1]["content"].as_str().unwrap();
    assert_eq!(user, format!("Question: What does he hold?\nReference answer: {PROSE}\nGiven answer: An umbrella"));
}

#[test]
fn a_judge_that_cannot_be_is_refused_before_the_run() {
    let judge = |keys: &str| format!("[judge]\n{keys}");
    let base = "base_url = \"http://localhost:1/v1\"\n";
    let whole = format!("{base}model = \"m\"\n");
    for (settings, parts) in [
        ("settings.answer.ask_judge = true".to_owned(), ["reward.judge", "\"answer\" asks it"]),
        (judge("base_url = \"localhost:8000\""), ["base_url is \"localhost:8000\"", "http://"]),
        (judge(base), ["model is not given", "base_url"]),
        (judge("base_url = \"http://me:word@localhost/v1\"\nmodel = \"m\""), ["user name or password", "api_key_env"]),
        (judge(&format!("{whole}timeout_seconds = 0.0")), ["timeout_seconds is 0", "above 0"]),
        (judge(&format!("{whole}parallel_requests = 0")), ["parallel_requests is 0", "from 1"]),
        (judge(&format!("{whole}max_retries = 2000")), ["max_retries is 2000", "from 0 to 1000"]),
        (judge(&format!("{whole}retry_seconds = -1.0")), ["retry_seconds is -1", "from 0"]),
        (judge(&format!("{whole}temperature = inf")), ["temperature is inf", "from 0"]),
        (judge(&format!("{whole}max_tokens = 0")), ["max_tokens is 0", "from 1"]),
        (judge(&format!("{whole}max_failed_steps = 0")), ["max_failed_steps is 0", "at least 1"]),
        (judge("base_url = []\nmodel = \"m\""), ["base_url is an empty list", "give"]),
        (judge("base_url = [\"http://a/v1\", \"b\"]\nmodel = \"m\""), ["base_url is \"b\"", "http://"]),
        ("settings.answer.by_rule = false".to_owned(), ["by_rule", "ask_judge"]),
        (judge(&format!("{whole}api_key_env = \"THYME_NO_SUCH_KEY\"")), ["THYME_NO_SUCH_KEY", "api_key_env"]),
    ] {
        let message = rewards(&settings).err().expect("it is refused");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_judge_that_is_not_there_leaves_answers_unscored() {
    let rewards = rewards(
        "settings.answer.ask_judge = true\n[judge]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\ntimeout_seconds = 2.0\n\
         retry_seconds = 0.01",
    );
    let score = answer(&rewards.unwrap(), "An umbrella");
    assert!(matches!(&score, Score::Unscored(reason) if reason.contains("127.0.0.1:9")), "{score:?}");
}

#[test]
fn no_more_questions_are_under_way_than_the_recipe_says() {
    const GROUPS: usize = 6;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let now = Arc::new(AtomicUsize::new(0));
    let serve = move || {
        let mut most = 0;
        let answering: Vec<_> = (0..GROUPS)
            .map(|_| {
                let (mut stream, now) = (listener.accept().unwrap().0, now.clone());
                most = most.max(now.fetch_add(1, Ordering::SeqCst) + 1);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(100));
                    let body = says("yes").1;
                    now.fetch_sub(1, Ordering::SeqCst);
                    let head = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).unwrap();
                    // The request is read so that closing does not reset the connection.
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let _ = stream.read_to_end(&mut Vec::new());
                })
            })
            .collect();
        answering.into_iter().for_each(|thread| thread.join().unwrap());
        most
    };
    let most = std::thread::spawn(serve);
    let rewards = rewards(&format!(
        "settings.answer.ask_judge = true\n[judge]\nbase_url = \"{address}\"\nmodel = \"m\"\nparallel_requests = 1\n\
         cache = \"never\""
    ));
    let trajectory = roll("<think>x</think>\n<answer>An umbrella</answer>");
    let group = |task| Group { task, trajectories: vec![trajectory.clone()] };
    let task = Task { question: "What does he hold?".into(), solution: PROSE.into(), ..Task::default() };
    let groups: Vec<Group> = (0..GROUPS).map(group).collect();
    let scores = rewards.unwrap().score_groups(&groups, &vec![task; GROUPS]);
    assert!(scores.iter().flatten().all(|scores| scores.part("answer") == Some(&Score::Value(1.0))), "{scores:?}");
    assert_eq!(most.join().unwrap(), 1);
}
