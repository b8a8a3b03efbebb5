//! Counters of an engine.

/// What an engine did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Times that a sequence lost its pages: it gave them up to another, stopped and paused ones too, or could not have enough.
    pub preemptions: u64,
    /// Tokens that went through the model, drafted ones among them.
    pub computed_tokens: u64,
    /// Steps whose forward was launched before the tokens of the step before were read.
    pub overlapped_steps: u64,
    /// Drafts that were verified.
    pub drafts: u64,
    /// Tokens in these drafts.
    pub drafted_tokens: u64,
    /// Of these, tokens that were accepted. Each saved a step.
    pub accepted_tokens: u64,
    /// Tokens of the sequences that began, or began anew.
    pub queried_tokens: u64,
    /// Of these, tokens whose keys and values were in the prefix cache.
    pub cached_tokens: u64,
    /// Images that went through the vision tower.
    pub encoded_images: u64,
    /// Images that had been through it when they were shown again.
    pub cached_images: u64,
}

impl Statistics {
    /// What was done since an earlier reading.
    pub fn since(&self, earlier: &Statistics) -> Statistics {
        Statistics {
            preemptions: self.preemptions - earlier.preemptions,
            computed_tokens: self.computed_tokens - earlier.computed_tokens,
            overlapped_steps: self.overlapped_steps - earlier.overlapped_steps,
            drafts: self.drafts - earlier.drafts,
            drafted_tokens: self.drafted_tokens - earlier.drafted_tokens,
            accepted_tokens: self.accepted_tokens - earlier.accepted_tokens,
            queried_tokens: self.queried_tokens - earlier.queried_tokens,
            cached_tokens: self.cached_tokens - earlier.cached_tokens,
            encoded_images: self.encoded_images - earlier.encoded_images,
            cached_images: self.cached_images - earlier.cached_images,
        }
    }
}
