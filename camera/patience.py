"""How slow this machine may be before a process of ours counts as hung: VEILCAM_PATIENCE.

A machine that another one emulates needs minutes to start and seconds a picture. While nothing
comes, a blank is shown, so more patience only means a longer blank.
"""

import math
import os

from veilcam.camera.errors import ConfigError

NAME = "VEILCAM_PATIENCE"
_MOST = 100.0


def patience() -> float:
    """Factor of every time limit, 1 unless the environment says more.

    Raises:
        ConfigError: It is no number from 1 to 100.
    """
    text = os.environ.get(NAME, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 1 <= factor <= _MOST:
        raise ConfigError(f"{NAME}={text!r} must be a number from 1 to {_MOST:g}")
    return factor
