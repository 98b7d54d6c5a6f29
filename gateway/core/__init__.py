"""The decisions: pure functions from values to values. Imports nothing but itself."""
