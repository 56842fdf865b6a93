//! The TOML configuration: as written, then as validated, with all problems at once.
