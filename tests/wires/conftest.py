"""Hypothesis runs here as it does for the core."""

from tests.core import conftest as conftest
