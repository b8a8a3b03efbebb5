//! Compiles forms in two passes: a child shows that a form can be compiled within stack, memory and time, then this process compiles it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::engine::sampling::grammar::{Form, Grammar, Grammars, Vocabulary};
use crate::isolated::{Isolated, IsolatedError, on_large_stack};

/// Forms that are remembered: of these no child has to show again that they can be compiled.
const REMEMBERED_MAX: usize = 256;

/// Compiles forms for one vocabulary.
pub struct Compiler {
    grammars: Grammars,
    children: Isolated,
    /// Hashes of forms that a child compiled, the last one last.
    accepted: Mutex<VecDeque<blake3::Hash>>,
}

impl Compiler {
    /// For a vocabulary, in children like these.
    ///
    /// # Errors
    /// When the vocabulary cannot be used.
    pub fn new(vocabulary: &Vocabulary, children: &Isolated) -> Result<Compiler, String> {
        let grammars = Grammars::of_vocabulary(vocabulary)?;
        Ok(Compiler { grammars, children: children.prepared(vocabulary), accepted: Mutex::default() })
    }

    /// Compiles a form.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn compile(&self, form: &Form) -> Result<Grammar, IsolatedError> {
        form.check().map_err(IsolatedError::Refused)?;
        let hash = blake3::hash(form.to_string().as_bytes());
        if !self.accepted().contains(&hash) {
            self.children.call(form)?;
            let mut accepted = self.accepted();
            accepted.push_back(hash);
            let surplus = accepted.len().saturating_sub(REMEMBERED_MAX);
            accepted.drain(..surplus);
        }
        let compiled = on_large_stack(|| self.grammars.compile(form));
        compiled.map_err(|error| IsolatedError::Unusable(error.to_string()))?.map_err(IsolatedError::Refused)
    }

    fn accepted(&self) -> std::sync::MutexGuard<'_, VecDeque<blake3::Hash>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
