"""Tests of the client: its decisions with plain data, the rest against real servers."""
