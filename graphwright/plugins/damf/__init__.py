"""DAMF, attention whose scores are products of short factors: the factors and what the three softmax forms mean.

Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 5-17.
"""
