"""Drawing a report's figures: bars with intervals, reward by step, reward by iteration.

They are drawn with matplotlib on `Figure` objects of their own: no window opens, no global state
changes, and the same data give the same bytes. The colours are Okabe and Ito's palette for
colour-blind readers; line styles and markers make lines distinguishable without colour.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_agents.evaluation.statistics import Estimate
from eto_agents.plain_text import one_line
from eto_agents.report.document import Image
from eto_envs.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look the same everywhere
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "eto-gym",
    "text.parse_math": False,  # an agent's name may contain "$"
}
PNG_DPI = 160
N_ACROSS = 3
NOT_PLAYED = Estimate(float("nan"), None, None)


class Line(NamedTuple):
    """One line of a figure.

    Attributes:
        label: the agent, or what else the line stands for.
        x: horizontal positions.
        y: mean rewards in [0, 1] with their intervals, as many as `x`.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Estimate]


def bars(groups: Mapping[str, Mapping[str, Estimate]], agents: Sequence[str]) -> Image:
    """Average reward with intervals: a panel for each column, a bar for each agent.

    Args:
        groups: estimates in [0, 1] by the column's title and the agent.
        agents: all agents, from top to bottom; an agent has the same colour in all figures.
    """
    with _style():
        figure, axes = _grid(len(groups), 0.6 + 0.32 * len(agents), share_y=True)
        for panel, (title, group) in zip(axes, groups.items(), strict=True):
            for position, agent in enumerate(agents):
                colour = COLOURS[position % len(COLOURS)]
                _bar(panel, position, group.get(agent, NOT_PLAYED), colour)
            panel.set_title(one_line(title))
            panel.set_xlim(0, 118)
            panel.set_xticks(range(0, 101, 25))
            panel.set_yticks(range(len(agents)), [_short(agent) for agent in agents])
            panel.set_ylim(len(agents) - 0.4, -0.6)
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
        _outer_labels(figure, axes, "average reward × 100", "")
        return _image(figure, "bars", "Average reward × 100 with 95 % intervals.")


def lines(
    panels: Mapping[str, Sequence[Line]],
    labels: Sequence[str],
    name: str,
    caption: str,
    x_label: str,
    *,
    is_stepped: bool = False,
) -> Image:
    """Reward along a horizontal axis: a panel for each title, a line for each agent.

    Args:
        panels: lines by title.
        labels: the lines' labels in order; a label has the same colour in all figures.
        name: the files' name without its suffix.
        caption: what the figure shows.
        x_label: label of the horizontal axis.
        is_stepped: draw a step function without markers (a score holds until the next step)
            rather than points with intervals.
    """
    with _style():
        figure, axes = _grid(len(panels), 2.4, share_y=True)
        handles: dict[str, Any] = {}
        for panel, (title, group) in zip(axes, panels.items(), strict=True):
            for line in group:
                order = labels.index(line.label)
                draw = _stairs if is_stepped else _points
                handles[line.label] = draw(panel, line, order)
            panel.set_title(textwrap.fill(one_line(title), 34, break_long_words=True))
            panel.set_ylim(-4, 104)
            panel.set_yticks(range(0, 101, 25))
            if not is_stepped:
                panel.set_xticks(sorted({x for line in group for x in line.x}))
                panel.margins(x=0.12)
            else:
                panel.set_xlim(left=0)
        _outer_labels(figure, axes, x_label, "reward × 100")
        shown = [label for label in labels if label in handles]
        figure.legend(
            [handles[label] for label in shown],
            [_short(label) for label in shown],
            loc="outside upper left",
            ncols=min(len(shown), 2 if len(axes) == 1 else 4),
        )
        return _image(figure, name, caption)


def _bar(panel: Axes, position: int, estimate: Estimate, colour: str) -> None:
    if math.isnan(estimate.mean):
        panel.text(2, position, "not played", va="center", fontsize=8, color="#777777")
        return
    mean = 100 * estimate.mean
    panel.barh(position, mean, height=0.62, color=colour)
    reach = mean
    if estimate.low is not None and estimate.high is not None and estimate.low < estimate.high:
        low, high = 100 * estimate.low, 100 * estimate.high
        panel.errorbar(
            mean, position, xerr=[[mean - low], [high - mean]], color="#222222", capsize=2.5, lw=1.2
        )
        reach = high
    panel.text(reach + 1.5, position, f"{mean:.1f}", va="center", ha="left", fontsize=8)


def _stairs(panel: Axes, line: Line, order: int) -> Any:
    values = [100 * estimate.mean for estimate in line.y]
    (handle,) = panel.step(
        line.x,
        values,
        where="post",
        color=COLOURS[order % len(COLOURS)],
        linestyle=DASHES[order % len(DASHES)],
        lw=1.8,
    )
    return handle


def _points(panel: Axes, line: Line, order: int) -> Any:
    means = [100 * estimate.mean for estimate in line.y]
    below = [m - (m if e.low is None else 100 * e.low) for m, e in zip(means, line.y, strict=True)]
    above = [
        (m if e.high is None else 100 * e.high) - m for m, e in zip(means, line.y, strict=True)
    ]
    # Shift each line a little, so that intervals at the same position stay visible.
    shifted = [x + 0.04 * (order % 4) for x in line.x]
    return panel.errorbar(
        shifted,
        means,
        yerr=[[max(0.0, d) for d in below], [max(0.0, d) for d in above]],
        color=COLOURS[order % len(COLOURS)],
        marker=MARKERS[order % len(MARKERS)],
        linestyle=DASHES[order % len(DASHES)],
        capsize=2.5,
        markersize=5,
        lw=1.6,
    )


def _grid(n_panels: int, height: float, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    figure_module = require("matplotlib.figure", extra="plot")
    n_columns = min(N_ACROSS, n_panels)
    n_rows = math.ceil(n_panels / n_columns)
    width = {1: 5.2, 2: 7.4}.get(n_columns, 9.6)
    figure = figure_module.Figure(
        figsize=(width, 0.7 + n_rows * (height + 0.45)), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, sharey=share_y, squeeze=False).ravel().tolist()
    for unused in axes[n_panels:]:
        unused.set_axis_off()
    return figure, axes[:n_panels]


def _outer_labels(figure: Figure, axes: Sequence[Axes], x_label: str, y_label: str) -> None:
    if len(axes) == 1:
        axes[0].set_xlabel(x_label)
        axes[0].set_ylabel(y_label)
        return
    figure.supxlabel(x_label, fontsize=9)
    if y_label:
        figure.supylabel(y_label, fontsize=9)


def _short(label: str) -> str:
    """A label short enough to leave room for the figure."""
    label = one_line(label)
    return label if len(label) <= 28 else label[:17] + "…" + label[-10:]


@contextlib.contextmanager
def _style() -> Iterator[None]:
    matplotlib = require("matplotlib", extra="plot")
    with matplotlib.rc_context(STYLE):
        yield


def _image(figure: Figure, name: str, caption: str) -> Image:
    drawing, pixels = io.BytesIO(), io.BytesIO()
    # Without date and version the same data give the same bytes.
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(pixels, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return Image(name, caption, drawing.getvalue(), pixels.getvalue())
