"""The test bed: a tiny model of every family, every way to export it, and what is fused in each."""
