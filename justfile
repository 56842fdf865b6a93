# What CI runs, and what a developer runs by hand. `just --list` is the help.

# The whole gate; CI runs exactly this.
check:
    bash .ci/run

fmt:
    cargo fmt

lint:
    cargo clippy --all-targets -- -D warnings

test *args:
    sh deploy/dev/test {{args}}

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

deny:
    sh deploy/dev/deny check bans licenses sources

# Known vulnerabilities; needs a network to fetch the database.
audit:
    sh deploy/dev/deny check advisories

rules:
    cargo run -q -- rules check rules
    cargo run -q -- rules test rules

demo *args:
    sh deploy/dev/demo {{args}}

bench *args:
    cargo run --release -q -- bench {{args}}

# Accept or refuse changed snapshots.
snap:
    cargo insta review

# Detection per source over a directory of labelled texts, beside what is expected.
quality dir *args:
    cargo run --release -q -- quality {{dir}} {{args}}

# The shipped weights again, from a directory of labelled rows.
train dir *args:
    cargo run --release -q -- train {{dir}} {{args}}

# Every fuzz target for so many seconds (or one: `just fuzz 600 decode`). Needs cargo-fuzz; stable Rust.
fuzz seconds="60" *targets:
    sh deploy/dev/fuzz {{seconds}} {{targets}}

# The spend and latency recipes over real traces, beside what is expected.
anomaly dir *args:
    cargo run --release -q -- quality --anomaly {{dir}} {{args}}
