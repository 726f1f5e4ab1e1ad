"""Maps: coordinates, clearances and shortest paths, against hand numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pgdlab.planning.demonstrations import demonstrations
from pgdlab.planning.figures import figures, near
from pgdlab.planning.maps import PILLARS, RADIUS, Map, along, clearance, length
from pgdlab.planning.search import distances, random_path
from pgdlab.planning.tasks import Tasks, drawn

ROOM = Map(("#####", "#...#", "#.#.#", "#...#", "#####"))  # a ring around the cell at the origin
WALLS = ROOM.walls.numpy()


def test_cells_are_where_pointmaze_has_them() -> None:
    """x = j + 1/2 - width / 2, y = height / 2 - i - 1/2, as gymnasium_robotics/envs/maze/maze_v4.py writes block_i_j."""
    assert ROOM.centre(torch.tensor([[2, 2], [1, 3], [0, 0]])).tolist() == [[0, 0], [1, 1], [-2, 2]]
    wide = Map(("####", "#..#", "####"))
    assert wide.centre(torch.tensor([1, 2])).tolist() == [0.5, 0]


def test_clearances_by_hand() -> None:
    """The pillar is the square from -1/2 to 1/2; the outer walls begin at 3/2."""
    points = torch.tensor(
        [[[0.0, 0.0], [0.3, 0.0], [0.9, 0.0], [0.8, 0.9], [1.4, 1.0], [9.0, 0.0]]], dtype=torch.float64
    )
    expected = [
        -0.5,
        -0.2,
        0.4,
        0.5,
        0.1,
        -1.0,
    ]  # 0.8, 0.9 is .3 and .4 from the pillar's corner; (9, 0) is outside of all
    got = clearance(points, ROOM.walls[None])[0]
    torch.testing.assert_close(got[:5], torch.tensor(expected[:5], dtype=torch.float64), rtol=0, atol=1e-12)
    assert got[5] == -6.5  # the map ends at 5/2


def test_a_block_counts_for_its_own_task() -> None:
    blocked = ROOM.walls.clone()
    blocked[1, 2] = True  # the square from (-1/2, 1/2) to (1/2, 3/2)
    point = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    assert clearance(point, torch.stack([ROOM.walls, blocked])).flatten().tolist() == [0.5, -0.5]


def test_the_slope_of_a_clearance_is_its_finite_difference() -> None:
    g = torch.Generator().manual_seed(0)
    points = (3 * torch.rand(1, 200, 2, dtype=torch.float64, generator=g) - 1.5).requires_grad_()
    (slope,) = torch.autograd.grad(clearance(points, ROOM.walls[None]).sum(), points)
    assert slope.isfinite().all()
    step = 1e-6
    for k in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[k] = step
        with torch.no_grad():
            up, down = (clearance(points + sign * shift, ROOM.walls[None]) for sign in (1, -1))
        difference = (up - down) / (2 * step)
        smooth = (difference.abs() < 0.999999) | ((difference.abs() - 1).abs() < 1e-6)
        off = (slope[..., k] - difference).abs()[smooth]
        assert off.median() < 1e-6
        assert (off < 1e-5).double().mean() > 0.99  # the others are where two cells are as near


def test_points_along_a_plan_and_its_length() -> None:
    plan = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]])
    assert along(plan, 2)[0].tolist() == [[0, 0], [0.5, 0], [1, 0], [1, 1], [1, 2]]
    assert length(plan).item() == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("###", "#x#", "###"), "of # .wall., . .free. and o"),
        (("###", "#.##", "###"), "rows of one length|3 rows or more of one length"),
        (("###", "..#", "###"), "map is open"),
        (("##", "##"), "3 rows or more"),
    ],
)
def test_what_is_no_map_is_said(rows: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Map(rows)


def test_shortest_paths_by_hand() -> None:
    """From the cell above the pillar to that below it: two diagonal steps would cut its corners, so it is 2 + 2."""
    found = distances(WALLS, (1, 2))
    assert found[3, 2] == 4
    assert found[1, 1] == 1
    assert np.isinf(found[2, 2])
    open_ = np.ones((5, 5), dtype=bool)
    open_[1:4, 1:4] = False
    assert distances(open_, (1, 1))[3, 3] == pytest.approx(2 * 2**0.5)


def test_random_paths_go_both_ways_round() -> None:
    generator = np.random.default_rng(0)
    paths = [random_path(WALLS, (1, 2), (3, 2), 1.5, generator) for _ in range(40)]
    assert all(p[0] == (1, 2) and p[-1] == (3, 2) for p in paths)
    steps = [abs(a - c) + abs(b - d) for p in paths for (a, b), (c, d) in itertools.pairwise(p)]
    assert set(steps) == {1}
    left = sum((2, 1) in p for p in paths)
    assert 8 <= left <= 32  # a fair coin of 40, six standard deviations less


def test_a_goal_that_cannot_be_reached_is_said() -> None:
    apart = np.ones((3, 5), dtype=bool)
    apart[1, 1] = apart[1, 3] = False
    with pytest.raises(ValueError, match=r"no path leads from cell \(1, 1\) to cell \(1, 3\)"):
        random_path(apart, (1, 1), (1, 3), 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no start and goal that are 1 apart and joined"):
        drawn(Map(("#####", "#.#.#", "#####")), 1, 0, 1.0, 0)
    with pytest.raises(ValueError, match="blocks is 25; the map has 24 cells"):
        drawn(Map(PILLARS), 1, 25, 1.0, 0)


def test_tasks_are_those_of_their_seed_and_can_be_solved() -> None:
    one, again, other = (drawn(Map(PILLARS), 20, 8, 6.0, seed) for seed in (1, 1, 2))
    assert torch.equal(one.ends, again.ends)
    assert not torch.equal(one.ends, other.ends)
    assert (one.occupied.sum((1, 2)) == Map(PILLARS).walls.sum() + 8).all()
    for k in range(20):
        start, goal = (tuple(cell) for cell in one.cells[k].tolist())
        assert not one.occupied[k][start]
        assert not one.occupied[k][goal]
        assert 6 <= one.shortest[k].item() == pytest.approx(distances(one.occupied[k].numpy(), start)[goal])
    assert (clearance(one.ends, one.occupied) >= 0.25 - 1e-6).all()


def test_demonstrations_join_start_and_goal_and_touch_nothing() -> None:
    map_ = Map(PILLARS)
    tasks = drawn(map_, 60, 0, 1.0, 3)
    plans, rows = demonstrations(map_, tasks, 32, 0)
    assert len(rows) >= 59
    assert torch.equal(plans[:, [0, -1]], tasks.ends[rows])
    assert not near(plans, tasks.occupied[rows]).any()
    even = plans.diff(dim=1).norm(dim=2)
    assert (even.std(1) / even.mean(1)).median() < 0.05  # equal distances along the way; chords cut curves a little


def test_figures_by_hand() -> None:
    """Two plans of one task around the pillar from above it to below: one on the right, one straight through."""
    ends = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]])
    tasks = Tasks(ROOM.walls[None], torch.tensor([[[1, 2], [3, 2]]]), ends, torch.tensor([4.0]))
    round_ = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [0.0, -1.0]])
    through = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, -0.5], [0.0, -1.0]])
    found = figures(torch.stack([round_, through]), tasks, torch.zeros(2, dtype=torch.long))
    assert found["success"] == 0.5
    assert found["success_stderr"] == pytest.approx(0.5)  # a standard deviation of 1 / sqrt 2, by sqrt 2
    # of 17 points, an eighth apart, those less than .6 from the middle: -.5 to .5, and the two at .5 +- .125 are .125 off
    assert found["collision"] == pytest.approx((0 + 9 / 17) / 2)
    assert found["length_ratio"] == 1.0
    assert found["bending"] == pytest.approx((2 + 0 + 2) / 3 / 2)
    # waypoints differ by 0, (1, .5), (1, 0), (1, -.5), 0: half their squares, by five
    assert found["variance"] == pytest.approx((1.25 + 1 + 1.25) / 2 / 5)
    assert RADIUS == 0.1
