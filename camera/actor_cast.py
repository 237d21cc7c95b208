"""The people who do not exist that come with a bundle of `scene` mode."""

import io

import numpy as np
from jaxtyping import Float32

from veilcam.camera.actor_code import NUM_STATIC, Cast
from veilcam.camera.errors import GraphError
from veilcam.camera.manifest import Bundle

NUM_FEATURES = 52  # of `body.facing_features`


def load_cast(bundle: Bundle) -> tuple[Cast, Float32[np.ndarray, "52 2"]]:
    """The cast, and the table from a pose to where it faces; checked as the bundle is.

    Raises:
        GraphError: The bundle lacks them, or they have other shapes.
    """
    where = f"bundle {bundle.path}: latents.npz"
    raw = bundle.file_bytes("latents.npz")
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            latents, statics, facing = (arrays[k] for k in ("cast", "statics", "facing"))
    except (ValueError, KeyError, OSError) as error:
        raise GraphError(f"{where} has no cast, statics and facing; export it again") from error
    got = [latents.ndim, latents.shape[-1], statics.shape, facing.shape]
    wanted = [2, len(bundle.mean), (len(latents), NUM_STATIC), (NUM_FEATURES, 2)]
    if got != wanted or not len(latents):
        raise GraphError(f"{where}: shapes {got}, wanted {wanted}; export it again")
    if not all(np.isfinite(a).all() for a in (latents, statics, facing)):
        raise GraphError(f"{where} holds numbers that are not finite; export it again")
    cast = Cast(latents=latents.astype(np.float32), statics=statics.astype(np.float32))
    return cast, facing.astype(np.float32)
