//! The form of verl's recipe of DeepEyes (`recipe/deepeyes/deepeyes.py`): CORRECT or INCORRECT, one of the words somewhere in the reply, after two
//! examples, at temperature 0.1. Where the reply has both words the original takes it for CORRECT; here it is no verdict.

use super::prompt::{JudgePrompt, one_word};
use crate::rollout::judge::MAX_RETRIES;

pub(super) const PROMPT: JudgePrompt = JudgePrompt {
    system: "You evaluate answers to questions. Decide whether the answer of a model has the same meaning as the standard answer to the same question. Be \
             strict: the model's answer is correct only if it says all that the standard answer means. Your judgement is a single word, CORRECT or \
             INCORRECT; write no explanation and nothing else.",
    user: "Here are a question, its standard answer, and a model's answer. Judge whether the model's answer is correct.\n\n\
           ---\nExample 1:\n[Question]: Is the mug white or green?\n[Standard Answer]: The mug is green.\n[Model's Answer]: green\n\
           [Your Judgement]: CORRECT\n\
           ---\nExample 2:\n[Question]: Is the window both open and dirty?\n[Standard Answer]: Yes, the window is both open and dirty.\n\
           [Model's Answer]: No.\n[Your Judgement]: INCORRECT\n\
           ---\nTask:\n[Question]: {question}\n[Standard Answer]: {reference}\n[Model's Answer]: {answer}\n[Your Judgement]:",
    temperature: 0.1,
    max_retries: MAX_RETRIES,
    verdict: |reply| one_word(reply, "CORRECT", "INCORRECT"),
};
