"""README.md and docs/: each block runs as it is printed, each link leads somewhere, each name has an entry."""
