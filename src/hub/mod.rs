//! The files of a Hugging Face checkpoint folder as such: which of their keys mean what here ([`keys`]), and what a file looks like that
//! git has not fetched. The table of keys as a page: `src/hub/README.md`.

pub mod keys;

/// What every git-lfs pointer begins with.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What to do about a git-lfs pointer, as the end of a message.
pub const POINTER_REMEDY: &str = "is a git-lfs pointer, not the file itself; fetch the files with `git lfs pull`, or download the checkpoint \
                                  with `hf download`";

/// Whether a file's bytes are the pointer that git-lfs leaves in place of a file that was not fetched.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(POINTER)
}
