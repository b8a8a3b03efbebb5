//! Chats that the server runs to their end as an agent: with an environment, whose tools run here.

pub mod response;
pub mod session;
