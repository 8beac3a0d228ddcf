"""The digits that ship with the package: 1797 images of 8 x 8 pixels, 0 to 16, in ten classes.

Two IDX files, the format of MNIST, 44 KB in all. Source and licence: DIGITS_LICENSE.txt.
"""

from __future__ import annotations

import os

from npdp.data.formats.idx import read_array
from npdp.data.formats.raw import Part, RawData

PIXEL_UNIT = 16.0  # each pixel counts the dark ones among 4 x 4 of the scan
IMAGES, LABELS = "digits-images-idx3-ubyte.gz", "digits-labels-idx1-ubyte.gz"


def read() -> RawData:
    """Read the digits, in the order of their source.

    Returns:
        (1797, 8, 8) uint8 images and (1797,) uint8 labels.
    """
    folder = os.path.dirname(__file__)
    images, labels = (read_array(os.path.join(folder, name)) for name in (IMAGES, LABELS))
    return RawData(Part(images, labels, lambda row: f"digits, image {row}"), classes=True, unit=PIXEL_UNIT)
