//! What a process does before anything else: it leaves no memory behind when it dies. Prompts of trusted
//! sources and the seal key pass through it, and both would stand in a core dump or a panic's message.

/// Switches core dumps off, for this process and those that it starts, and replaces the panic hook.
pub(super) fn leave_nothing_behind() {
    no_core_dumps();
    silence_panics();
}

/// Neither a core file (a limit of 0) nor one piped to a collector, which ignores the limit.
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering one's own limit is always allowed; whatever else fails, there is still the other way.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// A panic's message may quote what it was about; only its place is told.
fn silence_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            let thread = std::thread::current();
            tracing::error!(at, thread = thread.name().unwrap_or("unnamed"), "panic");
        } else {
            eprintln!("veilwatch: a mistake in the program at {at}; please report it");
        }
    }));
}
