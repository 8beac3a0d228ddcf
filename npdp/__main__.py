"""`python -m npdp` is the command `npdp`."""

import sys

from npdp.cli import main

sys.exit(main())
