"""How Hypothesis runs here: a machine that is busy fails no test, and a failure can be repeated.

In CI its own profile adds that examples are the same in each run. To search for longer, name a
number: ``SEARCH=50 scripts/test tests/core`` tries fifty times as many examples.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "twinwire",
    parent=settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=100 * int(os.environ.get("SEARCH", "1")),
)
settings.load_profile("twinwire")
