//! The tools that ship: a file each, or for those of one kind; one entry each in the registry. A file of a user's own (`python_file`) is named by the recipe.

mod boxes;
pub mod image_edit;
pub mod openthinkimg;
pub mod pixel_reasoner;
mod pure;
pub mod python;
pub mod python_file;
pub mod zoom_in;
pub mod zoom_in_bank;
