//! The rewards that ship: one file each, one line each in the registry.

pub mod answer;
pub mod consistency;
pub mod format;
pub mod math;
mod quantity;
pub mod tool_success;
