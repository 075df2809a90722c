"""For tests of what is built on twinwire, and of brokers; needs pytest."""

import pytest

# A failing assertion shows its values only in modules that pytest has been told of.
pytest.register_assert_rewrite("twinwire.testing.contract")
