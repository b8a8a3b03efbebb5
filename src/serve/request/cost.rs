//! Estimates the size of a request's answer as JSON before the first token is sampled, and refuses what is too large.

use super::settings::{Defaults, ResponseKind, Settings};
use crate::serve::error::ApiError;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: f64 = (256u64 << 20) as f64;
/// Bytes of an entry of a list of log-probabilities without the token's own: names of fields, numbers, brackets.
const CHAT_ENTRY_BYTES: f64 = 51.0;
const TEXT_ENTRY_BYTES: f64 = 21.0;
const PROMPT_ENTRY_BYTES: f64 = 66.0;
/// Bytes of a token's id with its comma, and of `token_id:N` in place of its text.
const ID_BYTES: f64 = 7.0;
const ID_NAME_BYTES: f64 = 15.0;

impl Defaults {
    /// Checks how large the response may become; `prompts` are the token counts of the prompts.
    ///
    /// # Errors
    /// When its answer may be too large.
    pub fn check_response_size(
        &self,
        settings: &Settings,
        kind: ResponseKind,
        prompts: &[usize],
    ) -> Result<(), ApiError> {
        self.check_answers(prompts.len(), settings)?;
        let n = settings.n as f64;
        let tokens: Vec<usize> = prompts.iter().map(|prompt| self.answer_tokens(settings, *prompt)).collect();
        let answered = n * tokens.iter().sum::<usize>() as f64 * self.bytes_of_token(settings, kind);
        // Each answer to a prompt repeats what is returned of the prompt; a chat returns it once.
        let times = if kind == ResponseKind::Text { n } else { 1.0 };
        let scored = times * prompts.iter().sum::<usize>() as f64 * self.bytes_of_prompt_token(settings, kind);
        if answered + scored <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        let megabytes = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
        let rows = prompts.len() * settings.n;
        let (field, asked, remedy) = match (scored > answered, settings.logprobs) {
            (true, _) => {
                let (prompts, top) = (prompts.iter().sum::<usize>(), settings.prompt_logprobs.unwrap_or(0));
                let asked = format!("log-probabilities of {prompts} prompt tokens with {top} of the likeliest each");
                ("prompt_logprobs", asked, "ask for fewer of the likeliest, or for fewer prompts at a time")
            }
            (false, top) => {
                let each = tokens.iter().max().copied().unwrap_or(0);
                let with = top.map_or_else(String::new, |top| {
                    format!(", with log-probabilities of each and of {top} of the likeliest")
                });
                let remedy = "lower max_tokens, n or the number of log-probabilities, or send fewer prompts at a time";
                ("max_tokens", format!("{rows} answers of up to {each} tokens{with}"), remedy)
            }
        };
        let message = format!(
            "asks for too much: {asked} make {} of JSON, and an answer may have {}; {remedy}",
            megabytes(answered + scored),
            megabytes(ANSWER_BYTES_MAX)
        );
        Err(ApiError::field(field, message))
    }

    /// Bytes that a token of an answer takes.
    fn bytes_of_token(&self, settings: &Settings, kind: ResponseKind) -> f64 {
        let is_chosen = settings.chooses_tokens;
        let text = self.token_bytes.text.get(is_chosen);
        let ids = if settings.token_ids { ID_BYTES } else { 0.0 };
        text + ids + settings.logprobs.map_or(0.0, |top| self.bytes_of_entries(settings, kind, top, is_chosen))
    }

    /// Bytes of a token's entry with those of `top` of the likeliest.
    fn bytes_of_entries(&self, settings: &Settings, kind: ResponseKind, top: usize, is_chosen: bool) -> f64 {
        // Where half the vocabulary or more is returned, the mean size holds.
        let is_chosen = is_chosen && top < self.vocab / 2;
        let name = if settings.tokens_as_ids { ID_NAME_BYTES } else { self.token_bytes.text.get(is_chosen) };
        match kind {
            // The token's text is also in the list of texts.
            ResponseKind::Text => name + 10.0 + (1 + top) as f64 * (TEXT_ENTRY_BYTES + name),
            ResponseKind::Chat | ResponseKind::Tokens => {
                18.0 + (1 + top) as f64 * (CHAT_ENTRY_BYTES + name + self.token_bytes.list.get(is_chosen))
            }
        }
    }

    /// Bytes of what is returned for a prompt's token: its id, and its log-probabilities, of an echoed prompt in both forms.
    fn bytes_of_prompt_token(&self, settings: &Settings, kind: ResponseKind) -> f64 {
        let ids = if settings.token_ids { ID_BYTES } else { 0.0 };
        let Some(top) = settings.prompt_logprobs else { return ids };
        let name = self.token_bytes.text.mean;
        let echoed = match (settings.echo, settings.logprobs, kind) {
            (true, Some(_), ResponseKind::Text) => name + self.bytes_of_entries(settings, kind, top, false),
            _ => 0.0,
        };
        ids + echoed + (1 + top) as f64 * (PROMPT_ENTRY_BYTES + name)
    }
}
