//! The form in which DeepEyes judges where a picture was taken: TRUE or FALSE, at temperature 0.5, with eight tries.

use super::prompt::{JudgePrompt, one_word};

pub(super) const PROMPT: JudgePrompt = JudgePrompt {
    system: "You are a helpful assistant.",
    user: "A model was asked where a picture was taken. Decide whether its answer names the same place as the reference answer. Another spelling, another \
           language or a more exact place inside the right one is still the same place; another place of that kind is not.\n\n\
           Question: {question}\nReference answer: {reference}\nModel's answer: {answer}\n\n\
           Reply with TRUE if it is the same place and with FALSE if it is not, and with nothing else.",
    temperature: 0.5,
    max_retries: 7,
    verdict: |reply| one_word(reply, "TRUE", "FALSE"),
};
