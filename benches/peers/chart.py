"""Turns the results of a run into an SVG that a person can read, on a light or a dark page.

In:    a `Report`.
Out:   SVG: a panel a line, a bar a server; how long, beside the best peer's.
Never: needs anything but text.
"""

from html import escape

import figures
from lines import PER_CPU
from servers import OURS
from tables import about, number, ordered, times

COLUMNS = 2
PANEL = 470
NAME = 128
BAR = 215
# Where the columns of numbers end, from where the bars begin.
VALUE = 272
TIMES = 328
ROW = 19
HEAD = 52
TOP = 96
MARGIN = 24
GAP = 22

# Its own ground, so that it is legible wherever it is shown; it follows what the reader prefers.
COLOURS = {
    # Each for a light and for a dark page.
    "ground": ("#ffffff", "#151b23"), "text": ("#1f2328", "#f0f6fc"),
    "soft": ("#59636e", "#9198a1"), "must": ("#bc4c00", "#f0883e"),
    "ours": ("#0969da", "#4493f8"), "variant": ("#54aeff", "#1f6feb"),
    "best": ("#818b98", "#656c76"), "peer": ("#afb8c1", "#3d444d"),
}  # fmt: skip
FONT = 'text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }'
SHAPES = """
.title { font-size: 19px; font-weight: 600; } .head { font-size: 13px; font-weight: 600; }
.mine { font-weight: 700; } .end { text-anchor: end; } .middle { text-anchor: middle; }
line { stroke-width: 1.5; stroke-dasharray: 3 2; }
"""


def style():
    """The style sheet, for a light page and, within a media query, for a dark one."""
    sheets = []
    for at in range(2):
        rules = [f".{name} {{ fill: {each[at]}; }}" for name, each in COLOURS.items()]
        sheets.append(" ".join([*rules, f"line {{ stroke: {COLOURS['must'][at]}; }}"]))
    return f"\n{FONT}{SHAPES}{sheets[0]}\n@media (prefers-color-scheme: dark) {{ {sheets[1]} }}\n"


def text(x, y, said, *kinds, colour="text"):
    kind = " ".join([colour, *filter(None, kinds)])
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(said)}</text>'


def bar(x, y, width, colour):
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{ROW - 5}" '
        f'rx="2" class="{colour}"/>'
    )


def mark(x, y, height):
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + height:.1f}"/>'


def colour(name, peers, best):
    if name == OURS:
        return "ours"
    if name not in peers:
        return "variant"
    return "best" if best is not None and name == best.name else "peer"


def panel(report, line, x, y):
    """One line's bars. Where less is better, the shortest bar is the best."""
    rows = ordered(report, line)
    _, best = report.sides(line)
    limit = line.must * best.value if line.must and best else line.at_most or 0
    longest = max([limit, *(row.value or 0 for row in rows)])
    scale = BAR / longest if longest else 0
    more = line.figure == PER_CPU
    what = f"{line.unit} a server CPU-second" if more else f"{line.unit}: less is better"
    drawn = [text(x, y + 14, line.title, "head"), text(x, y + 31, what, colour="soft")]
    start, top = x + NAME, y + HEAD - 12
    for at, row in enumerate(rows):
        middle = top + at * ROW
        base = middle + 11
        mine = "mine" if row.name == OURS else ""
        drawn.append(text(start - 8, base, row.name, "end", mine))
        if row.value is None:
            drawn.append(text(start + VALUE, base, "failed", "end", colour="soft"))
            continue
        shade = colour(row.name, report.about["peers"], best)
        drawn.append(bar(start, middle, row.value * scale, shade))
        drawn.append(text(start + VALUE, base, number(row.value), "end", mine))
        drawn.append(text(start + TIMES, base, times(figures.ratio(row, best)), "end", mine))
    if limit:
        at = start + limit * scale
        drawn.append(mark(at, top - 4, len(rows) * ROW + 3))
        said = f"must be {line.must:.2f} x" if line.must else f"must be {line.at_most:g} or less"
        drawn.append(text(at, top + len(rows) * ROW + 11, said, "middle", colour="must"))
    return drawn, HEAD + len(rows) * ROW + 8


def draw(report):
    """The whole chart."""
    drawn, shown = [], []
    for line in report.lines:
        if not line.ways and not line.rate and report.rows(line):
            shown.append(line)
    heights = [TOP] * COLUMNS
    for line in shown:
        column = heights.index(min(heights))
        x = MARGIN + column * (PANEL + GAP)
        parts, height = panel(report, line, x, heights[column])
        drawn += parts
        heights[column] += height + GAP
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    height = max(heights) + MARGIN
    key = [(OURS, "ours"), ("best peer", "best"), ("other peers", "peer")]
    key += [(", ".join(report.about["variants"]), "variant")] if report.about["variants"] else []
    x = MARGIN
    for said, name in key:
        drawn += [bar(x, TOP - 28, 14, name), text(x + 20, TOP - 17, said, colour="soft")]
        x += 34 + 7 * len(said)
    drawn.append(text(x, TOP - 17, "x: times the best peer", colour="soft"))
    title = "What a second of the server's CPU does, server beside server"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">',
        f"<style>{style()}</style>",
        f'<rect width="{width}" height="{height:.0f}" rx="8" class="ground"/>',
        text(MARGIN, 34, title, "title"), text(MARGIN, 54, about(report), colour="soft"), *drawn,
        "</svg>\n",
    ])  # fmt: skip
