//! The rewards that ship: one file each, one line each in the registry. A file of a user's own (`python_file`) is named by the recipe.

pub mod answer;
pub mod consistency;
pub mod equivalence;
pub mod format;
pub mod python_file;
pub mod tool_success;
