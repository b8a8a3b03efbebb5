//! The judges that ship.

pub mod openai;
