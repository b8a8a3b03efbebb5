//! `versions.json`: with what a folder of results was made.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::files::open::replace;

/// The file, in the folder of the results.
pub const VERSIONS_FILE: &str = "versions.json";

/// Writes the versions of thyme-engine and of `others` (a tool's programs) by name, in place of those that an earlier run wrote.
pub fn write_versions(folder: &Path, mut others: BTreeMap<String, String>) -> io::Result<()> {
    others.insert("thyme-engine".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let text = serde_json::to_string_pretty(&others).expect("text serialises");
    replace(&folder.join(VERSIONS_FILE), (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn versions_are_written_in_place_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join(VERSIONS_FILE)).unwrap();
        write_versions(folder.path(), BTreeMap::from([("numpy".to_owned(), "1.2.3".to_owned())])).unwrap();
        let written = fs::read_to_string(folder.path().join(VERSIONS_FILE)).unwrap();
        assert!(written.contains("\"numpy\": \"1.2.3\"") && written.contains("thyme-engine"), "{written}");
        assert_eq!(fs::read_to_string(other).unwrap(), "kept");
    }
}
