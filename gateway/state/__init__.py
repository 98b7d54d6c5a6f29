"""What is counted and kept while the gateway runs."""
