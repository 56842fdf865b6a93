//! Compiles the work counters, which must not be instrumented themselves.

fn main() {
    println!("cargo::rerun-if-changed=work.c");
    cc::Build::new().file("work.c").opt_level(2).compile("work");
}
