"""HARS: exact softmax + top-k, and search on top of it. NumPy arrays or torch tensors in, the same kind out.

Source: Wang et al. 2021 (LightSeq), arXiv:2010.13887, section 2.2: retrieve a few candidates by the maxima of groups,
then re-rank. Here k groups are kept instead of a threshold: all of the k largest lie in the k groups with the largest
maxima (Gaihre et al. 2021, Dr. Top-k, arXiv:2109.08219), so the second step reads a fixed number of logits.
What the operators mean to the last case: ``meaning.py`` and docs/design/0005-hars.md.
"""

