//! Ctrl-C: the first asks the run to save and end, the second ends it at once.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a process that was interrupted, as shells report it.
const INTERRUPTED: i32 = 130;

/// Raises `stop` at the first SIGINT or SIGTERM (schedulers send that one); at the second the process ends.
///
/// Call it first, while the process has one thread: later threads inherit that they leave both signals to the waiting one. Children are
/// started with no signal blocked, as `std::process::Command` does.
pub fn raise_on_interrupt(stop: Arc<AtomicBool>) {
    let Some(signals) = block_signals() else { return };
    let waiting = std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        while wait_for(&signals) {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED);
            }
            eprintln!("stopping: the run saves and ends after this step; once more ends it at once and saves nothing");
        }
    });
    // Without the thread nobody would take the signals.
    if waiting.is_err() {
        unblock(&signals);
    }
}

/// Blocks the two signals in this thread and those that it starts; none where the system refuses.
fn block_signals() -> Option<libc::sigset_t> {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the other two read; all pointers are to locals.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGTERM);
        let refused = libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut()) != 0;
        (!refused).then(|| signals.assume_init())
    }
}

fn unblock(signals: &libc::sigset_t) {
    // SAFETY: the set is initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals, std::ptr::null_mut()) };
}

/// Waits for one of the signals; false if that cannot be.
fn wait_for(signals: &libc::sigset_t) -> bool {
    let mut signal = 0;
    // SAFETY: the set is initialised, and `signal` is a local.
    unsafe { libc::sigwait(signals, &mut signal) == 0 }
}
