"""What all pictures have in common."""

from pathlib import Path

import pytest

from batchserve.errors import ConfigError
from batchserve.plotting import check_plot, name_axes, new_figure, save

pytest.importorskip("matplotlib")


def draw(path: Path) -> None:
    figure = new_figure(height=2)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4])
    name_axes(axes, "batch size", "items/s")
    save(figure, path)


def test_the_same_numbers_draw_the_same_file_whose_text_can_be_searched(tmp_path: Path):
    pictures = [tmp_path / "once.svg", tmp_path / "again.svg"]
    for picture in pictures:
        draw(picture)
    once, again = (picture.read_text(encoding="utf-8") for picture in pictures)
    assert once == again
    assert ">batch size</text>" in once


@pytest.mark.parametrize("ending", [".svg", ".PNG", ".pdf"])
def test_what_passes_the_check_can_be_drawn(tmp_path: Path, ending: str):
    picture = tmp_path / f"drawn{ending}"
    check_plot(picture)
    draw(picture)
    assert picture.stat().st_size


def test_an_ending_that_means_nothing_is_refused_before_anything_is_done():
    with pytest.raises(ConfigError, match=r"--plot x\.gif: the ending must be one of \.svg"):
        check_plot(Path("x.gif"))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere.*; name another file"):
        draw(tmp_path / "nowhere" / "drawn.png")
