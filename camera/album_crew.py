"""Album work spread over processes; a file that kills its process does not take others along."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from veilcam.camera.album_work import Recipe, Result, Task, Worker, start_process, work

_AHEAD = 2  # tasks handed out for each process


def results(tasks: Sequence[Task], recipe: Recipe, *, jobs: int, ray: str = "") -> Iterator[Result]:
    """What comes of each task, in the order in which they end.

    Args:
        tasks: Files to do.
        recipe: How twins are made.
        jobs: Processes; with 1 the work is done in this one.
        ray: Address of a cluster that does the work; empty for processes of this machine.
    """
    if ray:
        yield from _on_cluster(tasks, recipe, ray, jobs)
        return
    if jobs == 1:
        worker = Worker(recipe)
        try:
            yield from map(worker, tasks)
        finally:
            worker.close()
        return
    todo, suspects = deque(tasks), list[Task]()
    while todo:
        yield from _pooled(todo, suspects, recipe, min(jobs, len(todo)))
    for task in suspects:  # one of them killed its process: each gets one of its own
        alone, again = deque([task]), list[Task]()
        yield from _pooled(alone, again, recipe, 1)
        if again:
            task.temporary.unlink(missing_ok=True)
            yield Result(task.name, "failed", "ends the process that reads it (out of memory?)")


def _on_cluster(tasks: Sequence[Task], recipe: Recipe, address: str, jobs: int) -> Iterator[Result]:
    """What the cluster did, and then the rest in processes of our own, one by one."""
    from veilcam.camera.album_ray import ray_results

    left = {task.name: task for task in tasks}
    for result in ray_results(tasks, recipe, address=address, jobs=jobs):
        if left.pop(result.name, None) is not None:  # a block done twice counts once
            yield result
    for task in left.values():
        task.temporary.unlink(missing_ok=True)
    if left:
        yield from results(list(left.values()), recipe, jobs=2)  # a killer dies apart


def _pooled(todo: deque[Task], suspects: list[Task], recipe: Recipe, jobs: int) -> Iterator[Result]:
    """Empty `todo` through one pool; what was in a pool that broke goes to `suspects`."""
    context = multiprocessing.get_context("spawn")  # sessions of the models do not survive a fork
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=start_process, initargs=(recipe,)
    )
    flying: dict[Future[Result], Task] = {}
    is_broken = False
    try:
        while (todo and not is_broken) or flying:
            while todo and not is_broken and len(flying) < _AHEAD * jobs:
                task = todo.popleft()
                try:
                    flying[pool.submit(work, task)] = task
                except BrokenProcessPool:
                    suspects.append(task)
                    is_broken = True
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                task = flying.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(task)
                    is_broken = True
                    continue
                yield result
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=not flying, cancel_futures=True)
        if flying:  # interrupted: what is in work has only a temporary name
            for process in processes:
                process.terminate()
                process.join(5)
