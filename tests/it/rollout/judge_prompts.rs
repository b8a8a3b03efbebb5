//! How a judge is asked about an answer, and how its reply is read: each prompt by its name.

use thyme_engine::rollout::judges::prompts::JudgePromptName;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};

use super::roll;
use crate::support::fake_judge::{Act, FakeJudge};

/// A prompt: its name, the reply that says right and the one that says wrong, its temperature, its tries.
const PROMPTS: [(&str, &str, &str, f64, usize); 5] = [
    ("yes_no", "yes", "No.", 0.0, 4),
    ("thyme", "{\"Correctness\": 1}", "{\"Correctness\": 0}", 0.1, 3),
    ("deepeyes", "1", "Judgement: 0", 0.3, 4),
    ("deepeyes_verl", "CORRECT", "INCORRECT", 0.1, 4),
    ("geoguessr", "TRUE", "FALSE", 0.5, 8),
];

fn rewards(judge: &FakeJudge, prompt: &str, more: &str) -> RewardSet {
    let text = format!(
        "settings.answer = {{ ask_judge = true, judge_prompt = \"{prompt}\"{more} }}\n[judge]\nbase_url = \"{}\"\nmodel = \"m\"\n\
         retry_seconds = 0.001",
        judge.address
    );
    let settings: RewardSettings = toml::from_str(&text).unwrap();
    RewardSet::new(&settings, &Registry::default()).unwrap()
}

fn answer(rewards: &RewardSet, answer: &str, solution: &str) -> Score {
    let trajectory = roll(&format!("<think>x</think>\n<answer>{answer}</answer>"));
    let solution = solution.into();
    rewards
        .score_group(&[View::new(&trajectory, "Where is {answer}?", &solution)])
        .remove(0)
        .part("answer")
        .unwrap()
        .clone()
}

#[test]
fn each_prompt_asks_in_its_form_with_its_temperature_and_its_tries() {
    for (name, right, wrong, temperature, tries) in PROMPTS {
        let judge = FakeJudge::scripted(&[Act::says(right), Act::says(wrong), Act::says("what?")]);
        let rewards = rewards(&judge, name, "");
        let prose = "It lies behind the old harbour {reference} of Hull";
        assert_eq!(answer(&rewards, "near the sea", prose), Score::Value(1.0), "{name}");
        assert_eq!(answer(&rewards, "on the moon", prose), Score::Value(0.0), "{name}");
        assert!(matches!(answer(&rewards, "somewhere", prose), Score::Unscored(_)), "{name}");
        let requests = judge.requests();
        assert_eq!((requests.len(), requests[0]["temperature"].as_f64()), (2 + tries, Some(temperature)), "{name}");
        let user = requests[0]["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        for part in ["Where is {answer}?", prose, "near the sea"] {
            assert_eq!(user.matches(part).count(), 1, "{name}: {part:?} in {user}");
        }
        let examples = [("deepeyes", 8), ("deepeyes_verl", 3)];
        let wanted = examples.iter().find(|(example, _)| *example == name).map_or(0, |(_, count)| *count);
        assert_eq!(user.matches("[Standard Answer]:").count(), wanted, "{name}: the examples and the task");
    }
}

#[test]
fn replies_are_read_as_the_originals_read_them_and_what_these_guess_is_no_verdict() {
    let read = |name: JudgePromptName, reply: &str| (name.prompt().verdict)(reply).ok();
    // What Thyme's json.loads of the first {...}, vl_agent.py's branches and the patterns of verl's deepeyes.py take for 1 and 0; None where they guess or
    // give 0 for want of a verdict.
    for (name, reply, wanted) in [
        (JudgePromptName::YesNo, "**Yes**, it does", Some(true)),
        (JudgePromptName::YesNo, "no", Some(false)),
        (JudgePromptName::YesNo, "The answer is yes", None),
        (JudgePromptName::Thyme, "Sure: {\"Correctness\": 1.0} as asked", Some(true)),
        (JudgePromptName::Thyme, "```json\n{\n \"Correctness\": 0\n}\n```", Some(false)),
        (JudgePromptName::Thyme, "{\"Correctness\": 2}", None),
        (JudgePromptName::Thyme, "{\"Correctness\": 0.5}", None),
        (JudgePromptName::Thyme, "{\"Correctness\": \"1\"}", None),
        (JudgePromptName::Thyme, "{\"correctness\": 1}", None),
        (JudgePromptName::Thyme, "{Correctness: 1}", None),
        (JudgePromptName::Thyme, "{\"Correctness\": 1", None),
        (JudgePromptName::Thyme, "1", None),
        (JudgePromptName::Deepeyes, " 1 \n", Some(true)),
        (JudgePromptName::Deepeyes, "0", Some(false)),
        (JudgePromptName::Deepeyes, "Judgement: 0. But then Judgement: 1", Some(true)),
        (JudgePromptName::Deepeyes, "The score is 1", None),
        (JudgePromptName::Deepeyes, "Judgement: 10", None),
        (JudgePromptName::Deepeyes, "Judgement: yes", None),
        (JudgePromptName::DeepeyesVerl, "[Your Judgement]: correct.", Some(true)),
        (JudgePromptName::DeepeyesVerl, "Incorrect", Some(false)),
        (JudgePromptName::DeepeyesVerl, "It is INCORRECT, not CORRECT", None),
        (JudgePromptName::DeepeyesVerl, "CORRECTLY", None),
        (JudgePromptName::DeepeyesVerl, "Right", None),
        (JudgePromptName::Geoguessr, "True.", Some(true)),
        (JudgePromptName::Geoguessr, "FALSE", Some(false)),
        (JudgePromptName::Geoguessr, "TRUE or FALSE", None),
        (JudgePromptName::Geoguessr, "", None),
    ] {
        assert_eq!(read(name, reply), wanted, "{name:?} {reply:?}");
    }
}

#[test]
fn without_rules_the_judge_is_asked_about_every_answer_but_an_empty_one() {
    let judge = FakeJudge::scripted(&[Act::says("CORRECT")]);
    let rewards = rewards(&judge, "deepeyes_verl", ", by_rule = false");
    assert_eq!(answer(&rewards, "7", "8"), Score::Value(1.0), "a rule would say no");
    assert_eq!(answer(&rewards, " ", "8"), Score::Value(0.0));
    assert_eq!(judge.requests().len(), 1);
}

#[test]
fn a_prompt_of_another_name_is_refused_with_the_names_there_are() {
    let text = "settings.answer = { judge_prompt = \"verl\" }";
    let settings: RewardSettings = toml::from_str(text).unwrap();
    let message = RewardSet::new(&settings, &Registry::default()).err().unwrap().to_string();
    assert!(
        message.contains("verl") && message.contains("deepeyes_verl") && message.contains("geoguessr"),
        "{message}"
    );
}
