//! The environments that ship: one file each, one line each in the registry.

pub mod direct;
pub mod think_with_code;
pub mod tool_calling;
