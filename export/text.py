"""Words for a bundle: trains what is missing and writes `text.veil` beside it.

python -m veilcam.export.text BUNDLE --pack faces.npz --data DATA

Run it again for every new generator. Measures of the public pictures and the text net do not depend
on it and are kept in the cache; how its latents look is learned anew (a few minutes on one core).
"""

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax.extend.core import jaxpr_as_fun
from jax2onnx import to_onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from veilcam.camera.cast import TEXT_PART
from veilcam.camera.manifest import load_bundle
from veilcam.camera.text import SCHEMA_VERSION
from veilcam.camera.text_looks import Looks
from veilcam.camera.text_tokens import COLUMNS, MAX_SIZE, MAX_WORDS, NUM_TOKENS, Vocabulary
from veilcam.export.graph import IR_VERSION, OPSET, _optimize
from veilcam.model.captions import every_word, nouns
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.looks import learn_looks, measure_moves
from veilcam.model.provenance import provenance
from veilcam.model.text import train_text
from veilcam.model.text_data import Measured, Teacher, all_tokens, static_tokens
from veilcam.model.text_net import TextNet

_log = logging.getLogger(__name__)

_HALVED = 256  # constants with more numbers than this are stored as float16


def build_text_graph(net: TextNet, num_words: int) -> ModelProto:
    """One-hot `words` (1, w, v), `tokens` (1, t, k) -> `odds` (1, t, k); weights stored halved."""

    def run(words: jax.Array, tokens: jax.Array) -> jax.Array:
        return net(words[0], tokens[0])[None]

    specs = [
        jax.ShapeDtypeStruct(shape, jnp.float32)  # type: ignore[no-untyped-call]
        for shape in ((1, MAX_WORDS, num_words), (1, NUM_TOKENS, MAX_SIZE))
    ]
    traced = jaxpr_as_fun(jax.make_jaxpr(run)(*specs))
    model = to_onnx(
        lambda words, tokens: traced(words, tokens)[0],
        specs,
        model_name="veilcam_text",
        opset=OPSET,
        input_names=["words", "tokens"],
        output_names=["odds"],
    )
    clean = _halve(_optimize(model, keep_transposes=False))
    clean.ir_version = IR_VERSION
    onnx.checker.check_model(clean, full_check=True)
    return clean


def _halve(model: ModelProto) -> ModelProto:
    """Large constants stored as float16 and cast when the graph is loaded: half the file."""
    graph = model.graph
    kept = []
    casts = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size <= _HALVED or np.abs(array).max() > 6e4:
            kept.append(tensor)
            continue
        name = f"{tensor.name}_half"
        kept.append(numpy_helper.from_array(array.astype(np.float16), name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*casts, *nodes])
    return model


def write_text_part(
    target: Path,
    net: TextNet,
    vocabulary: Vocabulary,
    looks: Looks,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Writes the folder beside its place, then puts it there; the manifest comes back.

    Args:
        target: `.../text.veil`.
        net: The trained net.
        vocabulary: Its words.
        looks: Of the bundle it is for.
        facts: `bundle` (file name -> sha256), `reach`, `moves`, `guessed`, `data`: kept in the
            manifest.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        graph = build_text_graph(net, vocabulary.size)
        (folder / "text.onnx").write_bytes(graph.SerializeToString())
        arrays: dict[str, Any] = looks.arrays()
        np.savez_compressed(folder / "looks.npz", **arrays)
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "vocabulary": list(vocabulary.words),
            "nouns": list(nouns()),
            "files": hashes,
            **facts,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        folder.chmod(0o755)
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        folder.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def measured_pictures(pack: Pack, data: Path, cache: Path) -> Measured:
    """Measures of every portrait and of the most frontal picture of each simulated head."""
    path = cache / "measured.npz"
    if not path.is_file():
        frontal = pack.values[:, 0].__abs__().argsort(kind="stable")
        simulated = frontal[pack.domain[frontal] == SIMULATED]
        _, first = np.unique(pack.person[simulated], return_index=True)
        rows = np.concatenate([np.flatnonzero(pack.domain != SIMULATED), simulated[first]])
        names = [pack.people[person] for person in pack.person[rows]]
        Measured.of(pack.bgra[rows], names, data / "models").save(path)
    return Measured.load(path)


def known_numbers(measured: Measured, teacher: Teacher, data: Path) -> np.ndarray:
    """Every number of every picture; the simulator's own statements where it makes some."""
    numbers = teacher.complete(measured)
    labels = np.load(data / "persons/heads/labels.npz", allow_pickle=False)
    stated = {
        "sex": np.where(labels["id_sex"] == "male", 6.0, -6.0),
        "age": labels["id_age"],
        "beard": np.where(labels["id_beard"] == "none", -6.0, 6.0),
        "glasses": np.where(labels["id_glasses"], 6.0, -6.0),
    }
    for row, name in enumerate(measured.names):
        domain, _, identity = name.partition("/")
        if domain == "simulated":
            for column, values in stated.items():
                numbers[row, COLUMNS.index(column)] = values[int(identity)]
    return numbers


def trained_net(
    pack: Pack, measured: Measured, numbers: np.ndarray, cache: Path, num_steps: int
) -> tuple[TextNet, Vocabulary]:
    """The text net, from the cache where it was trained with the same words before."""
    path = cache / "text_net.npz"
    vocabulary = Vocabulary(every_word())
    graph, params = nnx.split(TextNet(vocabulary.size, rngs=nnx.Rngs(0)), nnx.Param)
    leaves, definition = jax.tree.flatten(params)
    if path.is_file():
        with np.load(path) as file:
            if str(file["words"]) == " ".join(vocabulary.words):
                kept = [jnp.asarray(file[f"leaf{i}"]) for i in range(len(leaves))]
                return nnx.merge(graph, jax.tree.unflatten(definition, kept)), vocabulary
    row_of = {name: row for row, name in enumerate(measured.names)}
    names = [pack.people[person] for person in pack.person]
    rows = np.array([row_of.get(name, -1) for name in names])
    tokens = all_tokens(numbers[rows], pack.values)[rows >= 0]
    weight = np.array([0.6, 3.0, 0.4])[pack.domain][rows >= 0]
    net, vocabulary, _ = train_text(tokens, weight, num_steps=num_steps)
    trained = jax.tree.leaves(nnx.state(net, nnx.Param))
    arrays: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(trained)}
    np.savez(path, words=np.array(" ".join(vocabulary.words)), **arrays)
    return net, vocabulary


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--pack", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: beside the bundle.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("packs/text"))
@click.option("--steps", default=3000, show_default=True, help="Of the text net.")
@click.option("--heads", default=2000, show_default=True, help="Painted to learn looks from.")
def main(
    bundle: Path, pack: Path, data: Path, out: Path | None, cache: Path, steps: int, heads: int
) -> None:
    """Teach the generator of BUNDLE words: write text.veil beside it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loaded = load_bundle(bundle)
    cache.mkdir(parents=True, exist_ok=True)
    pictures = Pack.load(pack)
    measured = measured_pictures(pictures, data, cache)
    teacher = Teacher.fit(measured)
    numbers = known_numbers(measured, teacher, data)
    net, vocabulary = trained_net(pictures, measured, numbers, cache, steps)
    looks, reach, guessed = learn_looks(
        loaded, teacher, (numbers, static_tokens(numbers)), data / "models", num_heads=heads
    )
    facts = {
        "bundle": {"fp32.onnx": loaded.manifest["files"]["fp32.onnx"]},
        "reach": reach,
        "moves": measure_moves(loaded, data / "models"),
        "guessed": {name: round(value, 3) for name, value in guessed.items()},
        "data": provenance(pictures.manifest),
    }
    write_text_part(out or bundle.resolve().parent / TEXT_PART, net, vocabulary, looks, facts)


if __name__ == "__main__":
    main()
