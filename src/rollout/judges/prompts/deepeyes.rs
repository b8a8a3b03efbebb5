//! DeepEyes' form (`vl_agent.py`): 1 or 0 after seven examples, at temperature 0.3. What stands behind the last `Judgement:` counts, where the reply has
//! that; else the whole reply is the number.

use super::prompt::JudgePrompt;
use crate::rollout::judge::{MAX_RETRIES, shortened};

pub(super) const PROMPT: JudgePrompt = JudgePrompt {
    system: "You are a helpful assistant.",
    user: "You are given a question, [Question], its reference answer, [Standard Answer], and the answer of a model, [Model_answer]. Judge whether the two \
           answers agree. They agree if they say essentially the same in whatever words: \"red\" and \"it is red\" agree. The judgement is 1 if they agree \
           and 0 if they differ. Write the judgement and nothing else.\n\n\
           [Question]: Is the mug white or green?\n[Standard Answer]: The mug is green.\n[Model_answer]: green\nJudgement: 1\n\n\
           [Question]: On which side of the road is the bus stop?\n[Standard Answer]: The bus stop is on the right side of the road.\n\
           [Model_answer]: right\nJudgement: 1\n\n\
           [Question]: Is the dog small and black?\n[Standard Answer]: Yes, the dog is small and black.\n[Model_answer]: Yes\nJudgement: 1\n\n\
           [Question]: Are the stripes on the horse?\n[Standard Answer]: No, the stripes are on the awning.\n[Model_answer]: no\nJudgement: 1\n\n\
           [Question]: Who holds the umbrella?\n[Standard Answer]: The woman holds the umbrella.\n\
           [Model_answer]: The person in the photo is the one who holds the umbrella.\nJudgement: 1\n\n\
           [Question]: Is the window both open and dirty?\n[Standard Answer]: Yes, the window is both open and dirty.\n[Model_answer]: No.\n\
           Judgement: 0\n\n\
           [Question]: What colour is the boat behind the pier?\n[Standard Answer]: The boat behind the pier is yellow.\n\
           [Model_answer]: The boat behind the pier is white.\nJudgement: 0\n\n\
           [Question]: {question}\n[Standard Answer]: {reference}\n[Model_answer]: {answer}\nJudgement:",
    temperature: 0.3,
    max_retries: MAX_RETRIES,
    verdict,
};

fn verdict(reply: &str) -> Result<bool, String> {
    let judgement = reply.rsplit_once("Judgement:");
    let (right, wrong) = match judgement {
        Some((_, number)) => (number.contains('1'), number.contains('0')),
        None => (reply.trim() == "1", reply.trim() == "0"),
    };
    match (right, wrong) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => Err(format!("the judge said neither 1 nor 0: {:?}", shortened(reply))),
    }
}
