//! `thyme-engine sandbox`: runs one program in the jail, as an environment would.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::jsonl::print;
use crate::files::open::{SETTINGS_BYTES_MAX, read_text};
use crate::sandbox;

/// Run Python on an image in the jail that model-written code runs in.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine sandbox --image photo.jpg crop.py

crop.py finds the picture at `image_path` and saves into `temp_output_dir`; a saved image whose path it prints comes back:
  from PIL import Image
  path = temp_output_dir + '/crop.png'
  Image.open(image_path).crop((0, 0, 200, 200)).save(path)
  print(path)

Images are saved as new files image-1.png, image-2.png, ...; a number that is taken is passed over.
Prints {\"status\": \"ok|error|timeout|denied\", \"text\", \"images\": [paths], \"seconds\"}, with \"widened\" where an image shows more than the code cut
out, and \"repairs\" where the code was repaired; the exit status is 0 whenever the code was run.")]
pub struct SandboxArguments {
    /// The picture that the code works on.
    #[arg(long, value_name = "IMG")]
    image: PathBuf,
    /// Seconds that the code may take.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Folder for the images that come back; a new temporary one where absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The Python program, a UTF-8 file.
    #[arg(value_name = "CODE.py")]
    code: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &SandboxArguments) -> anyhow::Result<()> {
    let path = &arguments.code;
    let code = read_text(path, SETTINGS_BYTES_MAX)
        .with_context(|| format!("cannot read {}; give a UTF-8 file of Python", path.display()))?;
    // A byte order mark is no part of a program.
    let code = code.strip_prefix('\u{feff}').unwrap_or(&code);
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => tempfile::Builder::new()
            .prefix("thyme-sandbox-")
            .tempdir()
            .context("cannot make a temporary folder; name one with --out")?
            .keep(),
    };
    let result = sandbox::run_file(&arguments.image, code, arguments.timeout, &out);
    if arguments.out.is_none() {
        // Goes only if it is empty: nothing came back.
        let _ = std::fs::remove_dir(&out);
    }
    print(&format!("{}\n", escaped(&result?.to_string())))?;
    Ok(())
}

/// JSON in which no control character stands as itself: those beyond the first 32 are JSON as they are, and a terminal obeys them.
pub(super) fn escaped(json: &str) -> String {
    let escape = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escape).collect()
}

/// Reads a positive number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 86_400.0 => Ok(duration),
        _ => Err("give a number of seconds above 0 and at most 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_a_terminal_holds_no_control_characters_and_means_the_same() {
        let said = serde_json::json!({"text": "\x1b[2J \u{9b}31m \x7f ž"});
        let line = escaped(&said.to_string());
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), said);
    }
}
