//! What the terminal shows of an error and of a panic.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// llguidance and its parts, as the paths of their sources name them.
const CATCHING: [&str; 3] = ["llguidance", "derivre", "toktrie"];

/// Says what is printed of a panic. llguidance catches its own and makes errors of them: of these nothing is.
pub(super) fn set_panic_hook() {
    // At its first use, which is this one, it sets a hook that resolves a backtrace for every panic, for which a process reads all its debug
    // information into memory. The next hook replaces it.
    let _ = llguidance::panic_utils::catch_unwind(|| Ok(()));
    std::panic::set_hook(Box::new(|panic| {
        let is_caught = |file: &str| CATCHING.iter().any(|library| file.contains(library));
        if !panic.location().is_some_and(|place| is_caught(place.file())) {
            eprintln!("error: {}", report(panic));
        }
    }));
}

/// A fault of a device, or of our own, as a line; with RUST_BACKTRACE where it came from.
fn report(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = text.unwrap_or("something failed without a word");
    let place = panic.location().map_or(String::new(), |place| format!(" (at {place})"));
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => format!("{message}{place}\n{backtrace}"),
        _ => format!("{message}{place}"),
    }
}

/// The error and its causes, each said once: a message may hold its cause already.
pub(super) fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut text, cause| {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
        text
    })
}
