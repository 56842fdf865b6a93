//! Prices usage and adds it to every ledger it belongs to. Integers only.
