"""Tuning: each distinct region with several valid lowerings is timed on this machine, and the fastest is kept."""
