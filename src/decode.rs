//! Turns records into sealed events, or into dead letters with a reason and a place, never bytes.
