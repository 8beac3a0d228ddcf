"""`python -m npdp.train`: the name that runs npdp/app/train.py."""

import sys

from npdp.app import address_layout
from npdp.app.train import main

__all__ = ["main"]

if __name__ == "__main__":
    address_layout.begin_again_at_same()
    sys.exit(main())
