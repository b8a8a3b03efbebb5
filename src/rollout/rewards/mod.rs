//! The rewards that ship: a file for each, or for those of a system that belong together; one entry each in the registry. A file of a user's own
//! (`python_file`) is named by the recipe. `recipes/rewards.md` has all of them with their formulas.

pub mod answer;
pub mod code_quality;
pub mod consistency;
pub mod crop_validity;
pub mod deepeyes;
pub mod equivalence;
pub mod format;
mod judge_reply;
pub mod openthinkimg;
pub mod pixel_reasoner;
pub mod process;
pub mod python_file;
pub mod soft_overlong;
pub mod tool_economy;
pub mod tool_success;
pub mod verifiers;
