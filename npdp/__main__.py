"""The command `npdp`, and `python -m npdp`."""

import sys

from npdp.app import address_layout, cli


def main() -> int:
    """Run the command that this process was started for; return its exit code."""
    address_layout.begin_again_at_same()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
