from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ecomgpt_jax.evaluation import ablation, figure

RATIOS = {"t": [np.stack([np.arange(20) < 5 * n, np.ones(20)], 1).astype(float) for n in range(3)]}
INPUTS = {"t": [str(row) for row in range(20)]}


def test_the_figure_is_written_whole_and_the_same_each_time(tmp_path: Path) -> None:
    summary = ablation.summarise(["all", "less", "least"], RATIOS, [0, 1, 2], INPUTS)
    for name in ("a.png", "b.png"):
        figure.draw_variants(tmp_path / name, "Chain-of-Task", summary)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    other = ablation.summarise(["all", "less", "least"], RATIOS, [2, 1, 0], INPUTS)
    figure.draw_variants(tmp_path / "c.png", "Chain-of-Task", other)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_losses_are_drawn_below_the_scores(tmp_path: Path) -> None:
    names, losses = ["all", "less", "least"], {"t": [np.full(20, n / 2) for n in range(3)]}
    figure.draw_variants(tmp_path / "a.png", "t", ablation.summarise(names, RATIOS, [0, 1, 2], INPUTS))
    figure.draw_variants(tmp_path / "b.png", "t", ablation.summarise(names, RATIOS, [0, 1, 2], INPUTS, losses=losses))
    without, beside = (matplotlib.image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert beside.shape[0] == 2 * without.shape[0]
    orange = (beside[..., 0] - beside[..., 2]) > 0.5
    assert np.argwhere(orange)[:, 0].min() > without.shape[0]


def test_a_curve_lies_over_its_weights_whatever_their_order(tmp_path: Path) -> None:
    losses = {"t": [np.full(20, n / 2) for n in range(3)]}
    names, groups = ["a", "b", "c"], {"EN": ["t"]}
    summary = ablation.summarise(names, RATIOS, [0, 1, 2], INPUTS, groups=groups, losses=losses)
    figure.draw_curve(tmp_path / "a.png", {"a": 0.0, "b": 0.5, "c": 1.0}, summary)
    figure.draw_curve(tmp_path / "b.png", {"c": 1.0, "a": 0.0, "b": 0.5}, summary)
    figure.draw_curve(tmp_path / "c.png", {"a": 1.0, "b": 0.5, "c": 0.0}, summary)
    one, same, mirrored = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == same != mirrored
    image = matplotlib.image.imread(tmp_path / "a.png")
    blue, orange = (np.argwhere(image[..., 2 - side] - image[..., side] > 0.5) for side in (0, 2))
    for rows, columns in (blue.T, orange.T):  # both rise with the weight here
        assert rows[columns < columns.mean()].mean() > rows[columns >= columns.mean()].mean()
    assert blue[:, 1].max() < image.shape[1] / 2 < orange[:, 1].min()


def dependency(change: list[float], declared: list[float]) -> dict:
    return {"tasks": ["task"], "abilities": ["a", "b"], "change": [change], "declared": [declared]}


def pixels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns where a picture is red and where it is blue, [pixels, 2] rows and columns."""
    image = matplotlib.image.imread(path)[..., :3]
    red, blue = ((image[..., channel] - image[..., 2 - channel]) > 0.2 for channel in (0, 2))
    return np.argwhere(red), np.argwhere(blue)


def test_a_heat_map_is_red_where_it_is_worse_and_blue_where_it_is_better(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    figure.draw_dependency(path, dependency([-0.2, 0.2], [0, 0]))
    red, blue = pixels(path)
    assert red[:, 1].mean() < blue[:, 1].mean()
    # A loss that falls is better: below the scores the colours stand the other way round.
    figure.draw_dependency(path, dependency([-0.2, 0.2], [0, 0]), dependency([-0.2, 0.2], [0, 0]))
    middle = matplotlib.image.imread(path).shape[0] / 2
    red, blue = (each[each[:, 0] > middle] for each in pixels(path))
    assert red[:, 1].mean() > blue[:, 1].mean()


def test_a_declared_use_is_framed(tmp_path: Path) -> None:
    images = []
    for name, declared in (("none.png", [0, 0]), ("first.png", [1, 0]), ("second.png", [0, 1])):
        figure.draw_dependency(tmp_path / name, dependency([0.0, 0.0], declared))
        images.append(matplotlib.image.imread(tmp_path / name))
    framed = [np.argwhere((images[0] != each).any(-1))[:, 1] for each in images[1:]]
    assert framed[0].max() < framed[1].min()


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        figure.draw_dependency(tmp_path / "missing" / "map.png", dependency([0.0, 0.0], [0, 0]))
