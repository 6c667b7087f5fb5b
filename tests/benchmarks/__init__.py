"""Ratios, each in one run on one machine: `make bench`. Never timed tests."""
