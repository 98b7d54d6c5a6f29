"""Benchmarks: what the gateway costs beside its peers, and whether it stays whole under abuse."""
