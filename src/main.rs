//! The `veilwatch` binary. Everything is in the library; this turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    veilwatch::cli::main()
}
