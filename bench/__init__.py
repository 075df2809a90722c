"""Measurements of twinwire against C servers that do the same with nothing in between.

`python -m bench fanout` and `python -m bench commands`, from the repository's root; see README.md.
"""
