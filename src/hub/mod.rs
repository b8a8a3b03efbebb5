//! The files of a Hugging Face checkpoint folder: what each key of the config files does here ([`keys`]), and how to tell a file that git-lfs
//! has not fetched. `src/hub/README.md` shows the tables of keys.

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
