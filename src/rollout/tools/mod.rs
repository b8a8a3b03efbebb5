//! The tools that ship: a file each, or for those of one kind; one entry each in the registry. A file of a user's own (`python_file`) is named by the recipe.

pub mod image_edit;
pub mod python;
pub mod python_file;
