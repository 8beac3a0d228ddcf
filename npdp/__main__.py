"""The command `npdp`, and `python -m npdp`."""

import sys

from npdp import addresses, cli


def main() -> int:
    """Run the command that this process was started for; return its exit code."""
    addresses.begin_again_at_same()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
