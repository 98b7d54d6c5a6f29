"""Stand-ins for real engines, built from the product's own rows and from recordings."""
