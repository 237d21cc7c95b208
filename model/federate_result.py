"""What a federation that has ended gives a public run: sums everybody may see, and the promise."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from veilcam.camera.errors import ConfigError
from veilcam.model.checkpoint import META, read_meta, write_arrays
from veilcam.model.checkpoint import STATE as RUN
from veilcam.model.durable import write_json
from veilcam.model.federate import Federation, read_federation
from veilcam.model.federate_rounds import STATE
from veilcam.model.ledger import NAME, promise
from veilcam.model.private_data import PrivacyError

ASSUMES = (
    "the server follows the protocol, min_nodes of the cameras in the sum added their noise, and "
    "fewer than half of a camera's neighbours work with the server"
)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Of the federation in `folder`, for a run.

    Attributes:
        folder: With `state/`.
        federation: Its settings.
        params: After the last round.
        average: Of the second half of the rounds; `params` where there was none.
        training: The promise for a manifest.
        data: What the run has seen with it.
    """

    folder: Path
    federation: Federation
    params: np.ndarray
    average: np.ndarray
    training: dict[str, Any]
    data: list[dict[str, Any]]

    def give(self, out: Path) -> None:
        """The federation's ledger goes on in the run of `out`."""
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / "state" / NAME, out / NAME)

    def write(
        self, run_dir: Path, out: Path, facts: dict[str, Any], *, mean: Float[np.ndarray, " z"]
    ) -> None:
        """A copy of the run with another mean of its latents, the promise, `facts` and ledger."""
        self.give(out)
        with np.load(run_dir / RUN) as file:
            arrays = {name: file[name] for name in file.files}
        told = json.loads(str(arrays["meta"])) | facts
        told |= {"training": self.training, "data": self.data}
        arrays |= {"latent_mean": mean.astype(np.float32), "meta": np.array(json.dumps(told))}
        write_arrays(out / RUN, arrays)
        write_json(out / META, told)


def latents_of(run_dir: Path) -> tuple[Float[np.ndarray, " z"], Float[np.ndarray, "z z"]]:
    """Mean and Cholesky factor of a run's latents."""
    with np.load(run_dir / RUN) as file:
        return file["latent_mean"].astype(np.float64), file["latent_chol"].astype(np.float64)


def read_result(folder: Path, run_dir: Path, task: str) -> Result:
    """What the federation of `folder` came to, for the public run of `run_dir`.

    Raises:
        ConfigError: It learned another task.
        PrivacyError: The federation did not end, is of other settings than its folder's, or the
            run was made with private people before: spends of two units can't be added.
    """
    federation, meta = read_federation(folder / "federation.toml"), read_meta(run_dir)
    if federation.task != task:
        raise ConfigError(f"{folder}: task {federation.task!r}; wanted {task}")
    if (run_dir / NAME).exists() or meta.get("training") is not None:
        raise PrivacyError(
            f"{run_dir}: has seen private people already; its promise and the federation's (unit "
            "camera) can't be added: start from a run that is public"
        )
    state = folder / "state"
    if not (state / STATE).exists():
        raise PrivacyError(f"{folder}: no round was applied; run `veilcam federate server` first")
    with np.load(state / STATE) as file:
        if str(file["fingerprint"]) != federation.fingerprint:
            raise PrivacyError(f"{state}: of a federation with other settings than its folder's")
        params, average = file["params"], file["average"]
        average = average if int(file["num_averaged"]) else params
    private = {
        "name": f"people of {federation.num_nodes} cameras", "pictures": "uncounted",
        "origin": f"federation {federation.name}; no picture left its camera",
        "licence": "not shipped", "is_private": True,
    }  # fmt: skip
    return Result(
        folder=folder, federation=federation, params=params, average=average,
        training=promise(state / NAME) | {"assumes": ASSUMES},
        data=[*meta.get("data", []), private],
    )  # fmt: skip
