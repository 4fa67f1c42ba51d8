"""
Pairs of real implementations of one architecture, with the true mapping of their weights.

Each file of this folder holds some; :mod:`benchmarks.pairs.pair` says what a pair is. Their
libraries are heavy and not needed for the tests, which have names, shapes and truth of each
pair as a small file in ``tests/transplant/pairs``. ``python -m benchmarks.pairs`` proves every
truth by equal outputs and writes those files.
"""
