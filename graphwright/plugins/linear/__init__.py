"""Linear: a matrix product with its epilogue, bias, activation and residual, as one operator with a body.

What it means to the last case: ``meaning.py``; the NumPy reference: ``reference.py``; why it is there, and what each
target makes of it: docs/design/0011-linear.md.
"""
