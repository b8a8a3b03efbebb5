//! The folder where this program keeps what it can make again.

use std::path::PathBuf;

/// `$XDG_CACHE_HOME/thyme-engine`, else `~/.cache/thyme-engine`; none where neither is set. It may not be there yet.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    Some(users.or_else(|| set("HOME").map(|home| home.join(".cache")))?.join("thyme-engine"))
}
