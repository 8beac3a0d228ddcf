"""PyTorch's place for `utils.data`, which is npdp.data: `from npdp.utils.data import DataLoader`."""

import sys

from npdp import data as data

sys.modules[f"{__name__}.data"] = data  # so that it can be imported from, as `os` does with `os.path`
