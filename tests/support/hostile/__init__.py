"""
Files made to do harm, each with what is to come of it. See :mod:`hostile.entries`.
"""
