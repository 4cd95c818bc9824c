from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ecomgpt_jax.evaluation import ablation, figure

RATIOS = {"t": [np.stack([np.arange(20) < 5 * n, np.ones(20)], 1).astype(float) for n in range(3)]}


def test_the_figure_is_written_whole_and_the_same_each_time(tmp_path: Path) -> None:
    summary = ablation.summarise(["all", "less", "least"], RATIOS, [0, 1, 2])
    for name in ("a.png", "b.png"):
        figure.draw_variants(tmp_path / name, "Chain-of-Task", summary)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    other = ablation.summarise(["all", "less", "least"], RATIOS, [2, 1, 0])
    figure.draw_variants(tmp_path / "c.png", "Chain-of-Task", other)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_losses_are_drawn_below_the_scores(tmp_path: Path) -> None:
    names, losses = ["all", "less", "least"], {"t": [np.full(20, n / 2) for n in range(3)]}
    figure.draw_variants(tmp_path / "a.png", "t", ablation.summarise(names, RATIOS, [0, 1, 2]))
    figure.draw_variants(tmp_path / "b.png", "t", ablation.summarise(names, RATIOS, [0, 1, 2], losses=losses))
    without, beside = (matplotlib.image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert beside.shape[0] == 2 * without.shape[0]
    orange = (beside[..., 0] - beside[..., 2]) > 0.5
    assert np.argwhere(orange)[:, 0].min() > without.shape[0]


def test_a_heat_map_is_blue_where_it_gains_and_red_where_it_loses(tmp_path: Path) -> None:
    figure.draw_heat_map(tmp_path / "map.png", "t", [[-0.2, 0.2]], ["task"], ["worse", "better"])
    pixels = matplotlib.image.imread(tmp_path / "map.png")[..., :3]
    red, blue = ((pixels[..., channel] - pixels[..., 2 - channel]) > 0.2 for channel in (0, 2))
    assert np.argwhere(red)[:, 1].mean() < np.argwhere(blue)[:, 1].mean()


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        figure.draw_heat_map(tmp_path / "missing" / "map.png", "t", [[0.0]], ["a"], ["b"])
