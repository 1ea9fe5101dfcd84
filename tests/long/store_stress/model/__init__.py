"""The model of the store: its ledger, its checks, and one world of an episode."""
