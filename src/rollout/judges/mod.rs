//! The judges that ship, and the endpoint that they and tools ask.
//!
//! A question goes to the servers of an [`endpoint`] in turn. What fails is tried again, each time after a longer wait; a server that fails is left
//! alone for a while ([`servers`]), and while none of them answers, questions fail at once. Equal questions of temperature 0 are asked once
//! ([`reply_cache`]). [`prompts`] has the questions about an answer, by name, and how their replies are read.

pub mod counter;
pub mod endpoint;
pub mod openai;
pub mod prompts;
pub mod reply_cache;
pub mod servers;
pub mod settings;
pub mod unloaded;
