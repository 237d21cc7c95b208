"""Training state on disk: one npz of named arrays and one JSON of facts, renamed into place."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import click
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from veilcam.camera.errors import InputError
from veilcam.model.generator import HeadGenerator

STATE, META = "state.npz", "meta.json"


@runtime_checkable
class Resumable(Protocol):
    """A run that can be kept: its arrays, its step, and whose latents they hold.

    Attributes:
        state: All that changes, a tree of arrays.
        step_index: Steps done.
    """

    state: dict[str, Any]
    step_index: int

    @property
    def people(self) -> tuple[str, ...]:
        """Name of each row of the latents."""

    @property
    def basis(self) -> dict[str, np.ndarray]:
        """Constants that the generator is built from."""

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and lower Cholesky factor of the latents."""


def save(trainer: Resumable, run_dir: Path, meta: dict[str, Any]) -> None:
    """Writes the state.

    The data go before the facts, each by rename: a kill in between leaves the older pair readable.
    """
    arrays = dict(_named(trainer.state))
    mean, chol = trainer.latent_distribution()
    arrays |= {"latent_mean": mean, "latent_chol": chol}
    arrays |= {f"basis/{name}": value for name, value in trainer.basis.items()}
    meta = meta | {"step": trainer.step_index}
    arrays |= {"meta": np.array(json.dumps(meta)), "people": np.array(trainer.people)}
    write_arrays(run_dir / STATE, arrays)
    partial = run_dir / (META + ".partial")
    partial.write_text(json.dumps(meta, indent=1) + "\n")
    partial.replace(run_dir / META)


def compact(run_dir: Path, target: Path) -> None:
    """A copy of a run's state that fits into version control: averaged weights, latents, float16.

    A run resumes from it with the averaged generator, a new discriminator (it learns fast, for it
    judges features of a trained net) and new moments of the optimizers.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _open(run_dir) as file:
        arrays = {
            name: file[name].astype(np.float16) if file[name].dtype == np.float32 else file[name]
            for name in file.files
            if not name.startswith(("['opt_", "['generator']", "['discriminator']"))
        }
    for name in ("latent_mean", "latent_chol"):
        arrays[name] = arrays[name].astype(np.float32)
    write_arrays(target / STATE, arrays)
    (target / META).write_bytes((run_dir / META).read_bytes())


def restore(trainer: Resumable, run_dir: Path) -> None:
    """Puts a saved state back; arrays that a compact state lacks keep their fresh values."""
    with _open(run_dir) as file:
        trainer.step_index = int(json.loads(str(file["meta"]))["step"])
        paths, definition = jax.tree_util.tree_flatten_with_path(trainer.state)
        leaves = []
        for path, value in paths:
            name = jax.tree_util.keystr(path)
            if name not in file.files:
                name = name.replace("['generator']", "['average']", 1)
            if name not in file.files:
                leaves.append(value)
                continue
            saved = file[name]
            if path[0].key in ("latents", "opt_latents") and saved.ndim == 2:
                saved = _by_person(saved, file["people"], np.asarray(value), trainer)
            if saved.shape != np.shape(value):
                raise InputError(
                    f"{run_dir / STATE}: {name} has shape {saved.shape}, the config wants "
                    f"{np.shape(value)}; resume with the config the run was started with"
                )
            leaves.append(jnp.asarray(saved.astype(value.dtype)))
        trainer.state = jax.tree_util.tree_unflatten(definition, leaves)


def _by_person(
    saved: np.ndarray, people: np.ndarray, fresh: np.ndarray, trainer: Resumable
) -> np.ndarray:
    """Rows of a per-person table in the order of this pack; people it lacks keep the fresh row."""
    row = {name: index for index, name in enumerate(people.tolist())}
    out = fresh.copy()
    for index, name in enumerate(trainer.people):
        if name in row:
            out[index] = saved[row[name]]
    return out


def load_generator(run_dir: Path) -> tuple[HeadGenerator, dict[str, Any], dict[str, np.ndarray]]:
    """Averaged generator, facts of the run, and the latents' `mean` and `chol`."""
    return load_average(run_dir, lambda basis: HeadGenerator(basis, rngs=nnx.Rngs(0)))


Module = TypeVar("Module", bound=nnx.Module)


def load_average(
    run_dir: Path, make: Callable[[dict[str, np.ndarray]], Module]
) -> tuple[Module, dict[str, Any], dict[str, np.ndarray]]:
    """As `load_generator`, for a generator that `make` builds from the run's constants."""
    with _open(run_dir) as file:
        basis = {k[6:]: file[k] for k in file.files if k.startswith("basis/")}
        graph, params, rest = nnx.split(make(basis), nnx.Param, ...)
        paths, definition = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(params))
        leaves = [
            jnp.asarray(file["['average']" + jax.tree_util.keystr(path)].astype(np.float32))
            for path, _ in paths
        ]
        nnx.replace_by_pure_dict(params, jax.tree_util.tree_unflatten(definition, leaves))
        latents = {
            "mean": file["latent_mean"].astype(np.float32),
            "chol": file["latent_chol"].astype(np.float32),
        }
        meta = json.loads(str(file["meta"]))
    return nnx.merge(graph, params, rest), meta, latents


def read_meta(run_dir: Path) -> dict[str, Any]:
    """Facts of a run."""
    with _open(run_dir) as file:
        meta: dict[str, Any] = json.loads(str(file["meta"]))
        return meta


def load_table(run_dir: Path, name: str) -> np.ndarray:
    """One array of a saved state, by its key."""
    with _open(run_dir) as file:
        return np.asarray(file[f"['{name}']"])


def save_average(
    generator: HeadGenerator,
    run_dir: Path,
    target: Path,
    meta: dict[str, Any],
    *,
    latents: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """A copy of a run's state with other averaged weights, to export from or to go on with.

    Args:
        generator: Whose weights they are.
        run_dir: The run.
        target: Folder of the copy.
        meta: Facts of the copy.
        latents: Another mean and Cholesky factor of the latents.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _open(run_dir) as file:
        arrays = {name: file[name] for name in file.files}
    average = nnx.to_pure_dict(nnx.state(generator, nnx.Param))
    arrays |= dict(_named({"average": average}))
    arrays["meta"] = np.array(json.dumps(meta))
    if latents is not None:
        arrays |= dict(zip(("latent_mean", "latent_chol"), latents, strict=True))
    write_arrays(target / STATE, arrays)
    (target / META).write_text(json.dumps(meta, indent=1) + "\n")


def _named(state: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for path, value in jax.tree_util.tree_leaves_with_path(state):
        yield jax.tree_util.keystr(path), np.asarray(value)


def _open(run_dir: Path) -> Any:
    path = run_dir / STATE
    if not path.is_file():
        raise InputError(f"{path}: no training state; train first, or name the run's folder")
    return np.load(path)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """All or nothing."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(run_dir: Path, out: Path) -> None:
    """Write a compact, resumable copy of RUN_DIR's state to the folder OUT."""
    compact(run_dir, out)


if __name__ == "__main__":
    main()
