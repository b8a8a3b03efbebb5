//! The tools that ship: a file each, or for those of one kind; one entry each in the registry.

pub mod image_edit;
pub mod python;
