//! Few arenas for the allocator of `run`, which has to be said before the program starts.
//!
//! The C library gives each thread an arena of its own and returns little of what one has once
//! needed: of 200 MB resident, 64 were free in fourteen arenas. With two of them the same load stays
//! 20 MB lower but threads meet in them, which costs a tenth of the CPU; four cost a fiftieth. The
//! setting is read from the environment before `main`, so the program starts itself once more with it,
//! in the same process: id, streams and directory stay.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What the C library reads.
const NAME: &str = "MALLOC_ARENA_MAX";
/// Threads seldom meet in one of four: ingest, two workers, two of the runtime.
const ARENAS: &str = "4";
/// Where an operator may have said something of his own.
const SET: [&str; 2] = [NAME, "GLIBC_TUNABLES"];

/// Starts the program once more with the setting, unless it is set. Comes back where that is so or cannot
/// be done: then it works with more memory.
pub(super) fn few() {
    if !cfg!(target_env = "gnu") || SET.iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Only returns if it failed.
    let _ = again.args(args).env(NAME, ARENAS).exec();
}
