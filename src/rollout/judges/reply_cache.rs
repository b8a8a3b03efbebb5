//! Replies by the content of their questions: an equal question is answered without asking, and of equal questions at a time one is asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::rollout::judge::JudgeError;

/// Replies that are kept; beyond, the oldest goes.
const REPLIES_MAX: usize = 1 << 14;
/// The longest reply that is kept, in bytes.
const REPLY_BYTES_MAX: usize = 4096;

/// A digest of all that a reply depends on.
pub type Content = [u8; 32];

/// The digest of a request.
pub fn content_of(request: &Value) -> Content {
    *blake3::hash(request.to_string().as_bytes()).as_bytes()
}

/// The cache, which many threads may use.
#[derive(Debug, Default)]
pub struct ReplyCache {
    state: Mutex<State>,
    /// A question that was under way has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Content, Entry>,
    /// The kept ones, the oldest first.
    order: VecDeque<Content>,
}

#[derive(Debug)]
enum Entry {
    Kept(String),
    UnderWay(Arc<Pending>),
}

type Reply = Result<String, JudgeError>;
/// What a question under way ends with.
type Pending = Mutex<Option<Reply>>;

/// A question that this thread asks for all; what it ends with goes to those who wait.
struct Asking<'a> {
    cache: &'a ReplyCache,
    content: Content,
    reply: Arc<Pending>,
}

impl ReplyCache {
    /// The reply to an equal question, kept or under way, and otherwise what `ask` gives. A failure goes to those
    /// who waited for it and is not kept.
    pub fn get_or_ask(&self, content: Content, ask: impl FnOnce() -> Reply) -> Reply {
        let (reply, is_first) = {
            let mut state = self.lock();
            match state.entries.get(&content) {
                Some(Entry::Kept(reply)) => return Ok(reply.clone()),
                Some(Entry::UnderWay(reply)) => (reply.clone(), false),
                None => {
                    let reply = Arc::default();
                    state.entries.insert(content, Entry::UnderWay(Arc::clone(&reply)));
                    (reply, true)
                }
            }
        };
        if !is_first {
            return self.wait_for(&reply);
        }
        let asking = Asking { cache: self, content, reply };
        let reply = ask();
        asking.end(&reply);
        reply
    }

    fn wait_for(&self, reply: &Pending) -> Reply {
        let mut state = self.lock();
        loop {
            if let Some(reply) = &*reply.lock().unwrap_or_else(PoisonError::into_inner) {
                return reply.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    fn end(self, reply: &Reply) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply.clone());
    }
}

impl Drop for Asking<'_> {
    /// Keeps the reply, if there is one and it is short, and wakes those who wait; also where `ask` panicked.
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        state.entries.remove(&self.content);
        let mut ended = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.get_or_insert_with(|| Err(JudgeError("the thread that asked panicked".to_owned()))) {
            Ok(reply) if reply.len() <= REPLY_BYTES_MAX => {
                state.entries.insert(self.content, Entry::Kept(reply.clone()));
                state.order.push_back(self.content);
            }
            _ => {}
        }
        while state.order.len() > REPLIES_MAX {
            let oldest = state.order.pop_front();
            oldest.map(|content| state.entries.remove(&content));
        }
        drop(ended);
        self.cache.ended.notify_all();
    }
}
