//! The judges that ship, and the endpoint that they and tools ask.

pub mod endpoint;
pub mod openai;
