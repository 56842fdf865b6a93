//! Findings become incidents, incidents become notifications. Pure: rows and time come in as arguments.
