"""Measurements of twinwire beside C servers with nothing in between, and beside others' servers.

`scripts/bench --quick`, or `python -m bench` from the repository's root; see README.md.
"""
