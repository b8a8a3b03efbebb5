//! Thyme's form (`agent_rm.py`): a JSON object `{"Correctness": score}`, the first of the reply, at temperature 0.1 and with three tries.

use serde_json::{Deserializer, Value};

use super::prompt::JudgePrompt;
use crate::rollout::judge::shortened;

pub(super) const PROMPT: JudgePrompt = JudgePrompt {
    system: "",
    user: "You are an expert in judging answers to questions. Below are a question, an answer that was generated, and the reference answer. Decide \
           whether the generated answer is consistent with the reference answer: the score is 1 if it is, and 0 if it is not.\n\n\
           Question: {question}\nGenerated answer: {answer}\nReference answer: {reference}\n\n\
           Reply with JSON and nothing else, in this form:\n{\"Correctness\": score}",
    temperature: 0.1,
    max_retries: 2,
    verdict,
};

fn verdict(reply: &str) -> Result<bool, String> {
    let object = reply.find('{').and_then(|start| Deserializer::from_str(&reply[start..]).into_iter::<Value>().next());
    let Some(Ok(object)) = object else {
        return Err(format!("the judge sent no JSON object: {:?}", shortened(reply)));
    };
    match object["Correctness"].as_f64() {
        Some(1.0) => Ok(true),
        Some(0.0) => Ok(false),
        _ => Err(format!("the judge's \"Correctness\" is neither 0 nor 1: {:?}", shortened(reply))),
    }
}
