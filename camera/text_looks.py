"""How a bundle's latents look, and draws of latents that look as asked.

A head's measured numbers (see `text_tokens.COLUMNS`) are guessed from its latent twice: by a linear
map, by which the Gaussian of the latents is conditioned in closed form, and by a small net, which
picks among several such draws.
"""

import io
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Float32

from veilcam.camera.text_tokens import COLUMNS, LOOKS

NUM_DRAWS = 96
TRUNCATION = 0.75  # as for stand-ins without words
_REACH = 3.0  # a draw's distance from the mean in standard deviations, root mean square


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looks:
    """Guesses of `COLUMNS` from a latent, and where the classes of each look lie.

    Attributes:
        linear: Linear guess, (c, z + 1): linear[:, :z] @ latent + linear[:, z].
        rest: Standard deviation of what the linear guess misses, (c,).
        hidden, out: Two dense layers of the net, (h, z + 1) and (c, h + 1), on latents that are
            centred and scaled by `center` and `scale` (z,); their sum with `linear` is the guess.
        low, high: Range of each number among painted heads, (c,).
        centers, spreads: Mean and deviation of each number in each class of each look,
            (looks, 8, c); NaN where a class was never seen.
    """

    linear: Float32[np.ndarray, "c z1"]
    rest: Float32[np.ndarray, " c"]
    hidden: Float32[np.ndarray, "h z1"]
    out: Float32[np.ndarray, "c h1"]
    center: Float32[np.ndarray, " z"]
    scale: Float32[np.ndarray, " z"]
    low: Float32[np.ndarray, " c"]
    high: Float32[np.ndarray, " c"]
    centers: Float32[np.ndarray, "l k c"]
    spreads: Float32[np.ndarray, "l k c"]

    @classmethod
    def load(cls, data: bytes) -> "Looks":
        """Reads the bytes of `looks.npz`. Raises ValueError or KeyError where it is none."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            values = {field.name: arrays[field.name].astype(np.float32) for field in fields(cls)}
        return cls(**values)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `load` reads, in float16 where that is enough."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        small = ("hidden", "out")
        return {k: v.astype(np.float16 if k in small else np.float32) for k, v in kept.items()}

    def guess(self, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n c"]:
        """The numbers that heads of these latents should show."""
        unit = (latents - self.center) / self.scale
        inner = np.maximum(unit @ self.hidden[:, :-1].T + self.hidden[:, -1], 0.0)
        straight = latents @ self.linear[:, :-1].T + self.linear[:, -1]
        return np.asarray(straight + inner @ self.out[:, :-1].T + self.out[:, -1])

    def nearest_class(self, name: str, latent: Float32[np.ndarray, " z"]) -> int:
        """Class of a look that a latent's guess comes nearest to; 0 where no class has a place."""
        row = next(i for i, look in enumerate(LOOKS) if look.name == name)
        columns = [COLUMNS.index(column) for column in LOOKS[row].columns]
        places = self.centers[row, : len(LOOKS[row].classes)][:, columns]
        off = np.square(places - self.guess(latent[None])[0, columns]).sum(1)
        return int(np.argmin(np.where(np.isfinite(off), off, np.inf)))

    def targets(self, wanted: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns, numbers and deviations that looks (name -> class) ask for.

        Numbers are moved into the range that the generator paints: asked for more than it can, it
        gives what it can. Deviations are as small in all as a sixth of that range, but in the
        proportions of the class: else the number whose range is smallest decides, and asked for
        grey hair a generator without light hair of little colour gives black, not light brown.
        """
        columns, numbers, spreads = [], [], []
        for row, look in enumerate(LOOKS):
            if look.name not in wanted:
                continue
            places = self.centers[row, wanted[look.name]]
            own = [c for c in map(COLUMNS.index, look.columns) if np.isfinite(places[c])]
            if not own:
                continue
            low, high = self.low[own].astype(float), self.high[own].astype(float)
            spread = np.maximum(self.spreads[row, wanted[look.name], own].astype(float), 1e-3)
            excess = np.log(np.minimum(np.maximum((high - low) / 6, 1e-3) / spread, 1.0))
            columns += own
            numbers += list(np.clip(places[own], low, high))
            spreads += list(np.maximum(spread * np.exp(excess.mean()), 1e-3))
        return np.array(columns, int), np.array(numbers), np.array(spreads)

    def draw(
        self,
        mean: Float32[np.ndarray, " z"],
        chol: Float32[np.ndarray, "z z"],
        wanted: dict[str, int],
        random: np.random.Generator,
    ) -> Float32[np.ndarray, " z"]:
        """One latent of the Gaussian (mean, chol), given the looks that are wanted.

        Several draws of the conditional Gaussian of the linear guess; of these one at random, by
        how well the net's guess fits.

        Source: Journel and Huijbregts 1978, Mining geostatistics, chapter VII: a conditional draw
        is an unconditional one, moved by what its observations miss.
        """
        noise = random.standard_normal((NUM_DRAWS, len(mean)))
        people = mean + TRUNCATION * noise @ chol.T.astype(np.float64)
        columns, numbers, spreads = self.targets(wanted)
        if not len(columns):
            return np.asarray(people[0], np.float32)
        a, b = self.linear[columns, :-1].astype(np.float64), self.linear[columns, -1]
        half = a @ chol
        rest = np.square(spreads) + np.square(self.rest[columns])
        seen = half @ half.T + np.diag(rest)
        error = random.standard_normal((NUM_DRAWS, len(columns))) * np.sqrt(rest)
        missing = numbers - (people @ a.T + b + TRUNCATION * error)
        people = people + np.linalg.solve(seen, missing.T).T @ half @ chol.T
        people = _within(people, mean, chol)
        off = (self.guess(people)[:, columns] - numbers) / spreads
        odds = -0.5 * np.square(off).sum(1)
        share = np.exp(odds - odds.max())
        return np.asarray(people[random.choice(NUM_DRAWS, p=share / share.sum())], np.float32)


def _within(
    people: Float[np.ndarray, "n z"], mean: Float[np.ndarray, " z"], chol: Float[np.ndarray, "z z"]
) -> Float[np.ndarray, "n z"]:
    """Draws that lie further out than latents ever were are taken back toward the mean."""
    unit = np.linalg.solve(chol.astype(np.float64), (people - mean).T).T
    size = np.sqrt(np.square(unit).mean(1, keepdims=True))
    return np.asarray(mean + (people - mean) / np.maximum(size / _REACH, 1.0))
