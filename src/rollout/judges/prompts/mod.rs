//! Questions about an answer, by name: what the judge reads, and how its reply is read. Each is one file, in the form of a system that the field trains
//! with. A reply of another form is no verdict: it is asked for again, and at last the answer is unscored, where the originals count it as wrong.

mod deepeyes;
mod deepeyes_verl;
mod geoguessr;
pub mod prompt;
mod thyme;
mod yes_no;

use serde::{Deserialize, Serialize};

use prompt::JudgePrompt;

/// The prompts by the names of recipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgePromptName {
    /// One word, yes or no, at temperature 0.
    #[default]
    YesNo,
    /// Thyme's JSON, `{"Correctness": 1}`, at temperature 0.1.
    Thyme,
    /// DeepEyes' 1 or 0 after seven examples, at temperature 0.3.
    Deepeyes,
    /// CORRECT or INCORRECT after two examples, as in verl's recipe of DeepEyes, at temperature 0.1.
    DeepeyesVerl,
    /// TRUE or FALSE about a place, as DeepEyes asks of GeoGuessr's pictures, at temperature 0.5, with seven retries.
    Geoguessr,
}

impl JudgePromptName {
    /// The prompt of this name.
    pub fn prompt(self) -> &'static JudgePrompt {
        match self {
            JudgePromptName::YesNo => &yes_no::PROMPT,
            JudgePromptName::Thyme => &thyme::PROMPT,
            JudgePromptName::Deepeyes => &deepeyes::PROMPT,
            JudgePromptName::DeepeyesVerl => &deepeyes_verl::PROMPT,
            JudgePromptName::Geoguessr => &geoguessr::PROMPT,
        }
    }
}
