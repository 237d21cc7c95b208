import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilcam.camera.compose import compose, hull_mask
from veilcam.camera.types import Codes, Frame, HeadCode, Patches, SafeFrame

SIZE_HW = (90, 120)


def ellipse(x, y, a, b, num=24):
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1)


def head(x=60.0, y=45.0, a=20.0, b=25.0, *, size=60.0, roll=0.0, skin=(120.0, 150.0, 190.0)):
    return HeadCode(
        track_id=0,
        levels=(0,),
        values=np.zeros(1, np.float32),
        latent=np.zeros(4, np.float32),
        center_xy=(float(x), float(y)),
        size_px=float(size),
        roll_deg=roll,
        skin_bgr=skin,
        hull_xy=ellipse(x, y, a, b),
    )


def patch(side=32, *, alpha=255, colour=(60, 75, 95)):
    bgra = np.zeros((side, side, 4), np.uint8)
    bgra[..., :3] = colour
    yy, xx = np.mgrid[:side, :side]
    bgra[..., 3] = np.where(np.hypot(xx - side / 2, yy - side / 2) < side * 0.4, alpha, 0)
    return bgra


def make(bgr, *heads, alpha=255):
    codes = Codes(size_hw=bgr.shape[:2], heads=heads)
    patches = Patches(bgra=tuple(patch(alpha=alpha) for _ in heads))
    return compose(Frame(bgr, 3, 0.1), codes, patches)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), np.uint8)


# Arguments of `head`, which the tests call: beartype draws from `random`, and a strategy must not.
heads = st.fixed_dictionaries(
    {
        "x": st.floats(-20, 140, allow_subnormal=False),
        "y": st.floats(-20, 110, allow_subnormal=False),
        "a": st.floats(2, 60),
        "b": st.floats(2, 60),
        "size": st.floats(2, 200),
        "roll": st.floats(-90, 90, allow_subnormal=False),
    }
)


@settings(max_examples=60)
@given(st.lists(heads, min_size=1, max_size=4), st.integers(0, 255), st.sampled_from([0, 90, 255]))
def test_output_depends_on_no_pixel_inside_a_hull(drawn, sentinel, alpha):
    bgr = noise(0)
    drawn = [head(**arguments) for arguments in drawn]
    inside = hull_mask(SIZE_HW, tuple(h.hull_xy for h in drawn))
    other = bgr.copy()
    other[inside] = sentinel
    shown = make(bgr, *drawn, alpha=alpha).bgr
    np.testing.assert_array_equal(shown, make(other, *drawn, alpha=alpha).bgr)


@settings(max_examples=60)
@given(heads)
def test_the_mask_covers_every_pixel_that_the_hull_touches(drawn):
    drawn = head(**drawn)
    mask = hull_mask(SIZE_HW, (drawn.hull_xy,))
    weight = np.random.default_rng(1).dirichlet(np.ones(len(drawn.hull_xy)), 200)
    for x, y in np.floor(np.concatenate([weight @ drawn.hull_xy, drawn.hull_xy])).astype(int):
        if 0 <= x < SIZE_HW[1] and 0 <= y < SIZE_HW[0]:
            assert mask[y, x]


def test_pixels_far_from_hull_and_patch_stay_as_they_are():
    bgr = noise(1)
    shown = make(bgr, head(30, 30, 8, 8, size=20)).bgr
    np.testing.assert_array_equal(shown[:, 60:], bgr[:, 60:])


def test_no_head_leaves_the_frame_and_copies_it():
    bgr = noise(2)
    safe = make(bgr)
    np.testing.assert_array_equal(safe.bgr, bgr)
    assert safe.bgr is not bgr
    assert (safe.index, safe.time_s, safe.reason) == (3, 0.1, "")


def test_the_frame_itself_is_never_changed():
    bgr = noise(3)
    before = bgr.copy()
    make(bgr, head(), head(10, 10))
    np.testing.assert_array_equal(bgr, before)


def test_the_fill_takes_the_colour_around_also_between_two_heads():
    bgr = np.full((*SIZE_HW, 3), (200, 100, 50), np.uint8)
    shown = make(bgr, head(45, 45), head(75, 45, 25, 30), alpha=0).bgr
    assert np.abs(shown.astype(int) - (200, 100, 50)).max() <= 6


def test_a_hull_over_the_whole_frame_still_gives_a_picture():
    shown = make(noise(4), head(60, 45, 500, 500), alpha=0).bgr
    assert np.ptp(shown) <= 1


def test_the_stand_in_gets_the_wanted_skin():
    shown = make(np.zeros((*SIZE_HW, 3), np.uint8), head(skin=(90.0, 112.0, 150.0))).bgr
    assert np.abs(shown[45, 60].astype(int) - (90, 112, 150)).max() <= 3


def test_a_small_head_is_the_mean_of_its_pixels_and_skips_none():
    fine = patch(128, colour=(0, 0, 0))
    fine[::2, ::2, :3] = fine[1::2, 1::2, :3] = 240  # a board of single pixels, mean 120
    drawn = head(60, 45, 3, 3, size=18.4, skin=(120.0, 120.0, 120.0))
    codes = Codes(size_hw=SIZE_HW, heads=(drawn,))
    ground = np.full((*SIZE_HW, 3), 10, np.uint8)
    shown = compose(Frame(ground, 0, 0.0), codes, Patches(bgra=(fine,))).bgr[42:49, 57:64]
    assert np.ptp(shown.astype(int)) <= 24
    assert 50 <= shown.mean() <= 150


def test_the_colour_match_is_bounded():
    shown = make(np.zeros((*SIZE_HW, 3), np.uint8), head(skin=(255.0, 255.0, 255.0))).bgr
    assert np.abs(shown[45, 60].astype(int) - (120, 150, 190)).max() <= 3


def test_a_blank_code_gives_a_blank():
    codes = Codes(size_hw=SIZE_HW, heads=(), blank_reason="fault")
    safe = compose(Frame(noise(5), 0, 0.0), codes, Patches(bgra=()))
    assert safe.reason == "fault"
    assert np.ptp(safe.bgr) == 0


@pytest.mark.parametrize(
    ("heads", "bgra", "size_hw", "message"),
    [
        ((head(),), (), SIZE_HW, "0 patches for 1"),
        ((head(),), (patch(),), (90, 121), "frame of"),
        ((head(size=float("nan")),), (patch(),), SIZE_HW, "not finite"),
        ((head(x=float("nan")),), (patch(),), SIZE_HW, "not finite"),
        ((head(a=float("inf")),), (patch(),), SIZE_HW, "not finite"),
        ((head(size=0.0),), (patch(),), SIZE_HW, "no usable"),
        ((head(a=1e8),), (patch(),), SIZE_HW, "no usable"),
    ],
)
def test_what_does_not_fit_is_refused(heads, bgra, size_hw, message):
    codes = Codes(size_hw=size_hw, heads=heads)
    with pytest.raises(ValueError, match=message):
        compose(Frame(noise(6), 0, 0.0), codes, Patches(bgra=bgra))


def test_nobody_else_makes_a_safe_frame():
    with pytest.raises(TypeError, match="only"):
        SafeFrame(noise(7), 0, 0.0, "", object())
