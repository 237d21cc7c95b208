"""Whether loops of this process have an audit beside them; standard library only."""

from threading import Lock


class _Chosen:
    """Whether loops of this process are watched; set once, before one is built."""

    def __init__(self) -> None:
        self._lock, self._is_on = Lock(), False

    def get(self) -> bool:
        with self._lock:
            return self._is_on

    def set(self, is_on: bool) -> None:
        with self._lock:
            self._is_on = is_on


_CHOSEN = _Chosen()


def watch_chosen() -> bool:
    """Whether new loops of this process have an audit beside them."""
    return _CHOSEN.get()


def choose_watch(is_on: bool) -> None:
    """Sets what `watch_chosen` gives."""
    _CHOSEN.set(is_on)
