"""Image sets as one uint8 tensor on one device: four embedded, the public ones by torchvision, and your own.

A set is kept as `<name>_<split>.npz` in the data folder (`VAENB_DATA`): `images` uint8 (N, S, S), (N, S, S, 3) or
(N, C, S, S), `labels` (N,) and, where known, `factors` (N, K) with `factor_names`. Any such file put there is a set.
"""

from vaenb.data.folder import EMBEDDED, DatasetUnavailable, available
from vaenb.data.imageset import ImageSet, recolor
from vaenb.data.sets import GARMENTS, load, upside_down, whole

__all__ = [
    "EMBEDDED",
    "GARMENTS",
    "DatasetUnavailable",
    "ImageSet",
    "available",
    "load",
    "recolor",
    "upside_down",
    "whole",
]
