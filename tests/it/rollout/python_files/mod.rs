//! Tools and rewards in Python files of a user's own.

mod recipe;
mod reward;
mod tool;
