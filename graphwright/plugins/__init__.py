"""Operator families of graphwright's own: meaning, reference, kernels and packaging, a folder each."""
