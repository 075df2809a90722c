"""`python -m twinwire.cli` is the command `twinwire`."""

import sys

from twinwire.cli import main

sys.exit(main())
