"""
One run: this tool and its peers on the same work, as ratios. ``python -m benchmarks``.
"""
