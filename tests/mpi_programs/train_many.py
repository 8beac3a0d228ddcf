"""Several runs of npdp.train after one start of the ranks; each argument is the flags of one run, as JSON."""

import json
import sys

from npdp.app import train

for flags in sys.argv[1:]:
    code = train.main(json.loads(flags))
    if code:
        sys.exit(code)
