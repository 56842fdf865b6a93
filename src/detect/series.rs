//! Scores a single time series online: `veilwatch series`. Home: none (one stream, one state).
