"""The camera's closed form against the accountant that training uses."""

import pytest

from veilcam.camera.plate_privacy import PlateConfig, gaussian_epsilon

dp_event = pytest.importorskip("dp_accounting").dp_event
pld = pytest.importorskip("dp_accounting.pld")


@pytest.mark.parametrize("noise_multiplier", [0.7, 1.0, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("delta", [1e-8, 1e-6, 1e-4])
def test_the_closed_form_agrees_with_the_pld_accountant(noise_multiplier, delta):
    accountant = pld.PLDAccountant()
    accountant.compose(dp_event.GaussianDpEvent(noise_multiplier))
    wanted = accountant.get_epsilon(delta)
    got = gaussian_epsilon(noise_multiplier, delta)
    assert got == pytest.approx(wanted, rel=0.01, abs=1e-3)


def test_a_visit_across_two_windows_costs_no_more_than_in_one():
    # k slots split into a + b: the two releases have sensitivities a/k and b/k of one window's
    config = PlateConfig()
    for share in (0.25, 0.5):
        accountant = pld.PLDAccountant()
        for part in (share, 1 - share):
            accountant.compose(dp_event.GaussianDpEvent(config.noise_multiplier / part))
        assert accountant.get_epsilon(config.delta) <= config.epsilon
