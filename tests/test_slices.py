"""A plane through a density."""

import pytest
import torch

from tests.oracles import seeded
from vaenb.metrics.slices import slice_through


def log_density(z):
    return -0.5 * (z**2 * torch.arange(1, 6)).sum(1)


def test_the_plane_holds_its_points_and_the_values_are_the_densitys():
    points, path = torch.randn(3, 5, generator=seeded()), torch.randn(20, 5, generator=seeded(1))
    plane = slice_through(log_density, points, path)
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2), atol=1e-5, rtol=0)
    flat = plane.project(points)
    torch.testing.assert_close(plane.origin + flat @ plane.axes, points, atol=1e-5, rtol=1e-5)
    assert flat[0].abs().max() == 0 and flat[1, 0] > 0 and abs(flat[1, 1]) < 1e-5
    corner = plane.origin + plane.a[-1] * plane.axes[0] + plane.b[0] * plane.axes[1]
    middle = plane.origin + plane.a[15] * plane.axes[0] + plane.b[15] * plane.axes[1]
    difference = log_density(torch.stack([corner, middle]))
    torch.testing.assert_close(plane.values[0, -1] - plane.values[15, 15], difference[0] - difference[1])
    assert plane.values.max() == 0
    seen = torch.cat([flat, plane.project(path)])
    for k, ticks in enumerate((plane.a, plane.b)):
        assert ticks[0] < seen[:, k].min() and ticks[-1] > seen[:, k].max()


def test_points_that_span_no_plane_are_refused():
    line = torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]])
    with pytest.raises(ValueError, match="points: they lie on one line"):
        slice_through(lambda z: z.sum(1), line)


@pytest.mark.parametrize("points", [torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(3, 1)])
def test_other_than_three_points_of_a_space_are_refused(points):
    with pytest.raises(ValueError, match=r"points: .* three points of two dimensions or more, expected"):
        slice_through(lambda z: z.sum(1), points)
