"""`python -m twinwire` is the command `twinwire`."""

import sys

from twinwire.cli import main

sys.exit(main())
