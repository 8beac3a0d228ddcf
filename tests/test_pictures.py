"""Pictures of schedules in text: what is drawn is what the schedule does, within its width."""

import pytest

from npdp.collectives import add, show
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.contents import run, text


@pytest.mark.parametrize("world_size", [1, 4, 7, 12])
@pytest.mark.parametrize("width", [60, 78])
@pytest.mark.parametrize("algorithm", SCHEDULES["allreduce"])
def test_a_picture_keeps_its_width_and_names_every_move_and_content(algorithm, width, world_size):
    steps = list(SCHEDULES["allreduce"][algorithm](world_size))
    picture = show(steps, world_size, width)
    assert max(map(len, picture.splitlines())) <= width
    parts = picture.split("\nstep ")
    assert len(parts) == len(steps) + 1
    for step, part, state in zip(steps, parts[1:], run(steps, world_size)[1:]):
        for move in step:
            assert f"{move.source} {'+>' if move.accumulate else '->'} {move.target}  {move.chunks}" in part
        cells = {text(content) for chunks in state for content in chunks}
        assert all(cell in part for cell in cells)


def test_a_picture_shows_itself_at_a_prompt_and_in_a_notebook():
    picture = show([[add(0, 1, 0)]])
    assert repr(picture) == str(picture) and "step 0   0 +> 1  chunk 0" in picture
    assert picture._repr_html_().startswith("<pre") and "0 +&gt; 1" in picture._repr_html_()


def test_contents_are_written_shortly():
    beginning = 1
    assert text(0) == "nothing" and text(beginning) == "0" and text(2 * beginning) == "0 0"
    assert text(9 * beginning) == "0(x9)"
    (final,) = {content for chunks in run(list(SCHEDULES["allreduce"]["ring"](9)), 9)[-1] for content in chunks}
    assert text(final) == "0-8"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"show: \(0, 2, 0, 1\) names a rank or chunk that is not among 2"):
        show([[add(0, 2, 0)]], 2)
    with pytest.raises(TypeError, match="wanted a schedule"):
        show(SCHEDULES["allreduce"]["ring"])
