"""Plots of norms by step, read back as the files that they are."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from io import BytesIO
from math import inf, nan
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from modelinspect.analysis.gradients import GradientRow, GradientsReport, History
from modelinspect.errors import MissingDependencyError, UsageError
from modelinspect.render.to_plot import check_plot, plot_bytes

STEPS = (1, 10, 20, 30)


def report(
    *histories: tuple[float | None, ...], names: tuple[str, ...] = (), **fields: Any
) -> GradientsReport:
    """A report on parameters with these norms by step."""
    rows = [
        GradientRow(
            names[place] if names else f"layer.{place}.weight", (2,), "float32", None, "ok", history=norms
        )
        for place, norms in enumerate(histories)
    ]
    fields.setdefault("history", History(STEPS, (2.0, 1.5, 1.0, 0.5), (1.0, 10.0, 100.0, 1000.0)))
    return GradientsReport("net.py:Net", "backward", rows, len(rows), "2", 1.0, **fields)


def texts_of(svg: bytes) -> list[str]:
    """Every text that a drawing shows."""
    root = ET.fromstring(svg.decode())
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def colours_of(png: bytes) -> Counter[tuple[int, ...]]:
    """Dots of each colour in a picture."""
    from matplotlib.image import imread

    dots = (imread(BytesIO(png), format="png")[..., :3] * 255).round().astype(int)
    return Counter(map(tuple, dots.reshape(-1, 3).tolist()))


def test_a_drawing_names_what_it_shows() -> None:
    """Target, axes, steps and the name of each parameter stand in the drawing as text."""
    shown = texts_of(plot_bytes(report((1.0, 2.0, 3.0, 4.0), (0.1, 0.1, 0.1, 0.1)), ".svg"))
    for text in ("net.py:Net", "global norm", "loss", "step", "10", "30", "layer.0.weight", "layer.1.weight"):
        assert text in shown
    assert {"no gradient, or zero", "NaN or infinite"} <= set(shown)


def test_decades_are_plain_numbers() -> None:
    """A norm over three decades has a logarithmic axis, with ticks in full."""
    shown = texts_of(plot_bytes(report((1.0, 2.0, 3.0, 4.0)), ".svg"))
    assert {"1", "10", "100", "1000"} <= set(shown)


def test_what_is_broken_has_a_colour_of_its_own() -> None:
    """NaN and infinity are vermilion in the map, and what has no gradient is grey."""
    vermilion, grey = (0xD5, 0x5E, 0x00), (0xBB, 0xBB, 0xBB)
    colours = colours_of(plot_bytes(report((1.0, None, nan, inf)), ".png"))
    assert colours[grey] > 10_000
    assert colours[vermilion] / colours[grey] == pytest.approx(2, rel=0.05)  # two cells and one


def test_norm_that_breaks_is_marked() -> None:
    """Steps at which the global norm is NaN are marked, and the legend says so."""
    history = History(STEPS, (None,) * 4, (1.0, nan, inf, None))
    shown = texts_of(plot_bytes(report((1.0, 1.0, 1.0, 1.0), history=history), ".svg"))
    assert "global norm NaN or infinite" in shown
    assert "loss" not in shown
    assert "global norm NaN or infinite" not in texts_of(plot_bytes(report((1.0,) * 4), ".svg"))


def test_every_label_that_fits() -> None:
    """With more parameters than labels some are named, in order, and the axis says how many."""
    shown = texts_of(plot_bytes(report(*[(1.0, 2.0, 3.0, 4.0)] * 150), ".svg"))
    numbers = [int(text.split(".")[1]) for text in shown if text.startswith("layer.")]
    assert numbers == list(range(0, 150, 3))
    assert "one in 3 of 150 parameters is named" in shown


@pytest.mark.parametrize(
    "name", ["$x$.weight", "a<b>&c", "层.0", "\x1b[31m", "a\\$b", "x" * 200, "{}_^%", "é\u202e"]
)
def test_names_are_texts(name: str) -> None:
    """A name is shown as it is: no formula, no markup, no control characters, no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in (".png", ".svg", ".html"):
            drawn = plot_bytes(report((1.0, 2.0, 3.0, 4.0), names=(name,)), suffix)
            assert b"<b>" not in drawn
    if name.isprintable() and len(name) < 48:
        assert name in texts_of(plot_bytes(report((1.0,) * 4, names=(name,)), ".svg"))


@pytest.mark.parametrize(
    "norms",
    [(None,) * 4, (0.0,) * 4, (nan,) * 4, (5.0,) * 4, (5e-324, 1.7e308, 1.0, 0.0)],
)
def test_any_norms_can_be_drawn(norms: tuple[float | None, ...]) -> None:
    """Nothing, zeros, NaN alone, one value, the ends of float64: all have a drawing."""
    history = History(STEPS, norms, norms)
    assert "layer.0.weight" in texts_of(plot_bytes(report(norms, history=history), ".svg"))


def test_norms_of_the_whole_alone() -> None:
    """A report without norms of parameters has the upper panel."""
    shown = texts_of(plot_bytes(report(()), ".svg"))
    assert "global norm" in shown
    assert "layer.0.weight" not in shown


def test_a_page_is_inert() -> None:
    """The page holds the drawing and nothing that runs or is fetched."""
    page = plot_bytes(replace(report((1.0,) * 4), target="</title><script>x</script>"), ".html").decode()
    assert page.count("<svg") == page.count("</svg>") == 1
    assert "<script" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;x&lt;/script&gt;: gradients</title>" in page
    assert 'href="http' not in page.replace("xlink:href", "href").replace('href="#', "")
    assert "src=" not in page


def test_settings_of_the_user_stay_out_and_come_back() -> None:
    """What a user set for their own plots neither changes ours nor is changed by it."""
    import matplotlib as mpl

    plain = plot_bytes(report((1.0, 2.0, 3.0, 4.0)), ".svg")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert plot_bytes(report((1.0, 2.0, 3.0, 4.0)), ".svg") == plain
        assert mpl.rcParams["font.size"] == 30


def test_nothing_global_and_no_display() -> None:
    """Drawing loads no pyplot, and loading the views loads no matplotlib."""
    script = (
        "import sys\n"
        "from modelinspect.render.views import grads\n"
        "from modelinspect.render import to_plot\n"
        "from modelinspect.analysis.gradients import GradientsReport, History\n"
        "print('matplotlib' in sys.modules)\n"
        "history = History((1, 2), (1.0, 2.0), (1.0, 2.0))\n"
        "to_plot.plot_bytes(GradientsReport('t', 'run', [], 0, '2', 1.0, history=history), '.png')\n"
        "print('matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: check_plot(".png"), lambda: plot_bytes(report((1.0,) * 4), ".png")):
        with pytest.raises(MissingDependencyError, match="--plot needs matplotlib") as caught:
            draw()
        assert caught.value.hint == "pip install 'modelinspect[plot]'"


@pytest.mark.parametrize("history", [None, History((), (), ())])
def test_without_a_history(history: History | None) -> None:
    """Nothing was recorded: the flag that records is named."""
    with pytest.raises(UsageError, match="no norms were recorded") as caught:
        plot_bytes(report((), history=history), ".svg")
    assert caught.value.hint == "add --every K"


@pytest.mark.parametrize(("suffix", "said"), [(".pdf", r"not \.pdf"), ("", "not without a suffix")])
def test_other_suffixes(suffix: str, said: str) -> None:
    """A suffix that is none of the three is named with them."""
    with pytest.raises(UsageError, match=said):
        check_plot(suffix)


def test_steps_stand_above_each_other() -> None:
    """Both panels call the same steps, the first and the last among them."""
    shown = texts_of(plot_bytes(report((1.0, 2.0, 3.0, 4.0)), ".svg"))
    assert shown.count("20") == shown.count("30") == 2
