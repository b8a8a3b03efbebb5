//! The rewards that ship: one file each, one line each in the registry.

pub mod answer;
pub mod consistency;
pub mod equivalence;
pub mod format;
pub mod tool_success;
