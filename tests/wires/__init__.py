"""Tests of the wires: bytes in, events out, and back."""
