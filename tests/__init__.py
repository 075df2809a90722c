"""The tests; a file here mirrors one of the package."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
CI = os.environ.get("CI", "") not in ("", "0", "false")  # as scripts/_env reads it
