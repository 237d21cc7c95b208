"""Private people can't be read by anything but the mechanism, and bad inputs are refused."""

import ast
import copy
import csv
import pickle
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import veilcam.model.private_data as module
from veilcam.camera.errors import InputError
from veilcam.model.private_data import PrivacyError, PrivateSet, load_private

MAY_REVEAL = {"privacy.py", "private_data.py", "federate_share.py", "many_devices.py"}
MAY_PERMIT = {"privacy.py", "ledger.py"}


@pytest.fixture
def people() -> PrivateSet:
    return PrivateSet({"x": np.ones((5, 2), np.float32)}, ["a", "a", "b", "c", "c"])


@pytest.mark.parametrize(
    "leak",
    [
        np.asarray,
        jnp.asarray,
        jnp.sum,
        list,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda sealed: sealed[0],
        lambda sealed: sealed["x"],
        lambda sealed: jnp.zeros(2) + sealed,
        lambda sealed: jax.jit(lambda a: a)(sealed),
        lambda sealed: jax.grad(lambda w: (w * jnp.asarray(sealed)).sum())(jnp.ones(2)),
    ],
)
@pytest.mark.parametrize("kind", ["set", "batch"])
def test_no_way_around_the_mechanism(leak: object, kind: str, people: PrivateSet) -> None:
    sealed = people if kind == "set" else people.select(np.array([[0], [2]]))
    with pytest.raises((PrivacyError, TypeError)):
        leak(sealed)  # type: ignore[operator]


def test_names_and_numbers_of_a_draw_are_not_shown(people: PrivateSet) -> None:
    assert repr(people) == "PrivateSet(3 people, 5 pictures)"
    assert "2" not in repr(people.select(np.array([[0], [2]])))


@pytest.mark.parametrize(("name", "allowed"), [("reveal", MAY_REVEAL), ("Permit", MAY_PERMIT)])
def test_only_the_mechanism_opens_batches_and_only_the_ledger_permits(
    name: str, allowed: set[str]
) -> None:
    calls = set()
    for path in Path(module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and name in ast.unparse(node.func).split(".")
            if called or (isinstance(node, ast.Attribute) and "PrivateBatch__" in node.attr):
                calls.add(path.name)
    assert calls & allowed
    assert calls <= MAY_REVEAL | MAY_PERMIT if name == "Permit" else calls <= allowed


def test_rows_of_nobody_are_zero(people: PrivateSet) -> None:
    arrays, is_padding = module.reveal(people.select(np.array([[1, 1], [-1, -1]])))
    assert is_padding.tolist() == [False, True]
    assert arrays["x"][:, 0, 0].tolist() == [1, 0]


def test_mapping_pictures_keeps_people_and_refuses_to_mix_them(people: PrivateSet) -> None:
    made = people.map_pictures(lambda rows: {"y": rows["x"] * 2}, chunk=2)
    assert (made.num_persons, made.num_pictures) == (3, 5)
    assert module.reveal(made.select(np.array([[4]])))[0]["y"][0, 0, 0] == 2
    with pytest.raises(PrivacyError, match="depends on others"):
        people.map_pictures(lambda rows: {"y": rows["x"].cumsum(0)})


@pytest.mark.parametrize(
    ("arrays", "person", "match"),
    [
        ({"x": np.ones((2, 1))}, ["a"], "unequal lengths"),
        ({"x": np.ones((0, 1))}, [], "no private pictures"),
    ],
)
def test_a_bad_set_is_refused(arrays: dict, person: list, match: str) -> None:
    with pytest.raises(InputError, match=match):
        PrivateSet(arrays, person)


def write_folder(folder: Path, rows: list[tuple[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "person"), *rows])
    picture = np.full((9, 7, 3), 80, np.uint8)
    cv2.imwrite(str(folder / "good.png"), picture)
    (folder / "empty.png").write_bytes(b"")
    (folder / "torn.png").write_bytes((folder / "good.png").read_bytes()[:20])


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([("good.png", "a"), ("gone.png", "b")], "1 of 2 files .* are missing and 0 unreadable"),
        ([("good.png", "a"), ("empty.png", "b"), ("torn.png", "c")], "0 of 3 .* and 2 unreadable"),
        ([("good.png", "")], "1 of 1 files"),
        ([], "columns 'file' and 'person'"),
    ],
)
def test_bad_pictures_are_counted_and_not_named(rows: list, match: str, tmp_path: Path) -> None:
    write_folder(tmp_path, rows)
    with pytest.raises(InputError, match=match) as caught:
        load_private(tmp_path, size_px=8)
    assert "gone.png" not in str(caught.value)


def test_bad_pictures_may_be_left_out_when_asked(tmp_path: Path) -> None:
    write_folder(tmp_path, [("good.png", "a"), ("torn.png", "b"), ("good.png", "a")])
    people = load_private(tmp_path, size_px=8, max_bad=1)
    assert (people.num_persons, people.num_pictures) == (1, 2)
    write_folder(tmp_path, [("torn.png", "b")])
    with pytest.raises(InputError, match="no picture could be read"):
        load_private(tmp_path, size_px=8, max_bad=1)
    with pytest.raises(InputError, match="cannot be read"):
        load_private(tmp_path / "none", size_px=8)
