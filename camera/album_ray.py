"""Album work on a cluster: `album --ray ADDRESS`, by the actors of Ray Data.

What goes over the network, and into Ray's object store, are names and hashes; pictures are read and
twins written by the actors, on a file system that all of them see at the same place. An actor is
the same `Worker` as in a process of ours, with the same rules. What a cluster does not give back,
whyever, is done here.
"""

import importlib
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from veilcam.camera.album_work import Recipe, Result, Task, Worker
from veilcam.camera.errors import ConfigError, SinkError

LOCAL = "local"  # a cluster of this machine alone, for this run alone
_TASKS_A_BLOCK = 4  # handed out, and done again where an actor dies, together
_TRIES = 2  # after the first, of a block that ends its actor
_RESTARTS = 16

_log = logging.getLogger(__name__)


class Actor:
    """One worker of the cluster.

    Args:
        recipe: How twins are made.
    """

    def __init__(self, recipe: Recipe) -> None:
        os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
        importlib.import_module("cv2").setNumThreads(1)
        logging.getLogger("veilcam").setLevel(logging.ERROR)
        self._worker = Worker(recipe)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a task -> a row with its result."""
        task = pickle.loads(row["task"])
        task.temporary.unlink(missing_ok=True)  # of an actor that died with it
        return {"result": pickle.dumps(self._worker(task))}


def ray_results(
    tasks: Sequence[Task], recipe: Recipe, *, address: str, jobs: int
) -> Iterator[Result]:
    """What comes of the tasks that the cluster did; one that is missing was not done.

    Args:
        tasks: Files to do.
        recipe: How twins are made.
        address: Of the cluster, as `ray.init` takes it, or `local`.
        jobs: Actors, one core each; fewer where the cluster has fewer cores.

    Raises:
        ConfigError: Ray is not installed.
        SinkError: There is no cluster at that address.
    """
    with _connected(address, jobs) as ray:
        data = importlib.import_module("ray.data")
        context = data.DataContext.get_current()
        context.max_errored_blocks = -1  # told by their absence
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        num_actors = max(1, min(jobs, int(ray.cluster_resources().get("CPU", 1))))
        # bytes, for Arrow knows no file names but UTF-8 ones
        rows = [{"task": pickle.dumps(task)} for task in tasks]
        num_blocks = max(min(len(rows), num_actors), -(-len(rows) // _TASKS_A_BLOCK))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of limits by a way that goes in Ray 2.64
            made = data.from_items(rows, override_num_blocks=num_blocks).map(
                Actor,
                fn_constructor_args=(recipe,),
                compute=data.ActorPoolStrategy(size=num_actors),
                num_cpus=1,
                max_restarts=_RESTARTS,
                max_task_retries=_TRIES,
            )
        try:
            for row in made.iter_rows():
                result: Result = pickle.loads(row["result"])
                yield result
        except ray.exceptions.RayError as error:
            _log.warning("the cluster failed (%s); the rest is done here", type(error).__name__)


@contextmanager
def _connected(address: str, jobs: int) -> Iterator[Any]:
    """Ray, connected; disconnected at the end."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report to its maker
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # one clear line is ours to say
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("pyarrow")
    except ImportError as error:
        raise ConfigError(f"--ray needs {error.name}: run ./scripts/setup ray") from error
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        options |= {"num_cpus": jobs, "include_dashboard": False}
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: starved on a busy PC
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise SinkError(
            f"no Ray cluster at {address!r} ({type(error).__name__}); start one with `ray start "
            f"--head`, or give {LOCAL}"
        ) from error
    with redirect_stdout(sys.stderr):  # Ray tells of retries on stdout, which is the report's
        try:
            yield ray
        finally:
            ray.shutdown()
