"""Checks that need a real GPU (make test-gpu)."""
