"""Profiles, sessions and the reference: everything that runs a model."""
