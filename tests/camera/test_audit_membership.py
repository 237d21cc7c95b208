import numpy as np

from veilcam.camera.audit_membership import as_row, membership_inference, membership_row

DIM = 30


def data(seed: int, num: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, DIM))


def test_a_sampler_that_repeats_training_pictures_is_caught() -> None:
    members = data(0)

    def sampler(num: int) -> np.ndarray:
        random = np.random.default_rng(9)
        return members[random.integers(0, len(members), num)] + 0.2 * random.standard_normal(
            (num, DIM)
        )

    result = membership_inference(sampler, members, data(1), reference=data(2), num_samples=600)
    assert result["auc"].low > 0.9


def test_a_sampler_that_learned_the_distribution_only_is_at_chance() -> None:
    result = membership_inference(
        lambda num: data(5, num), data(0), data(1), reference=data(2), num_samples=600
    )
    assert result["auc"].low < 0.5 < result["auc"].high
    assert result["control_positive"] > 0.9
    assert abs(result["control_negative"] - 0.5) < 0.12
    assert membership_row(result)["metric"] == "mia_auc"


def test_plain_pictures_do_not_pass_for_members() -> None:
    """Members that are nearer to everything are explained by the reference."""
    plain = 0.3 * data(0)
    result = membership_inference(
        lambda num: data(5, num), plain, data(1), reference=data(2, 600), num_samples=600
    )
    assert abs(result["auc"].value - 0.5) < 0.15


def test_rows_do_not_see_light() -> None:
    random = np.random.default_rng(0)
    bgr = random.integers(0, 120, (50, 40, 3)).astype(np.uint8)
    assert np.allclose(as_row(bgr), as_row((2 * bgr.astype(int)).astype(np.uint8)), atol=0.05)
    assert not as_row(np.zeros((50, 40, 3), np.uint8)).any()
