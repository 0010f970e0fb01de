# SPDX-License-Identifier: MIT
"""Pictures as SVG text, without any library: horizontal bars, stacked bars, lines."""

import math
from html import escape

COLOURS = {"nvmx": "#2a6fdb", "noshadow": "#8fb4ee", "kvm": "#d9761a", "kvm_noshadow": "#f0bd85", "bare": "#8a8f98"}
# For parts of a whole: neighbours differ in lightness as well as in hue.
PALETTE = ("#2a6fdb", "#7fb0f5", "#0f8a7e", "#7fd0c3", "#8a4fd0", "#c9a6f2", "#c43c62", "#f2a0b5", "#b98500", "#efcf6a",
           "#8a8f98")

STYLE = """<style>
text{font:13px system-ui,sans-serif;fill:#20242a}
.title{font-size:16px;font-weight:600}.small{font-size:12px;fill:#5c636e}.axis{stroke:#c3c8d0;stroke-width:1}
.grid{stroke:#e4e7ec;stroke-width:1}.bg{fill:#ffffff}.in{fill:#ffffff;font-size:12px}.mark{stroke:#c43c62;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.small{fill:#a2a9b5}.axis{stroke:#4a515c}.grid{stroke:#2d333c}
.bg{fill:#14181e}.in{fill:#ffffff}}
</style>"""


def number(value):
    return f"{value:,.0f}"


def text(x, y, content, kind="", anchor="start"):
    cls = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{cls} text-anchor="{anchor}">{escape(str(content))}</text>'


def rect(x, y, width, height, colour, title=""):
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" height="{height:.1f}" rx="1.5" '
            f'fill="{colour}">{inside}</rect>')


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def picture(width, height, parts, label):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
            f'height="{height:.0f}" role="img" aria-label="{escape(label)}">{STYLE}'
            f'<rect class="bg" width="{width}" height="{height:.0f}"/>' + "".join(parts) + "</svg>\n")


def legend(x, y, items):
    """[(name, colour)] in one line."""
    out = []
    for name, colour in items:
        out += [rect(x, y - 10, 12, 12, colour), text(x + 17, y, name, "small")]
        x += legend_width(name)
    return out


def text_width(content):
    """Of 13-px text, roughly; capitals are wider."""
    return sum(8.8 if letter.isupper() else 6.7 for letter in content)


def legend_width(name):
    return 36 + text_width(name)


def room_for(labels):
    return 28 + max(text_width(label) for label in labels)


def nice_step(most, steps=5):
    rough = most / steps
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)


def bars(title, subtitle, series, lines, width=860):
    """
    Horizontal bars on one scale. series: [(name, colour)]; lines: [(label, [value or None for each series])].
    Returns (parts, height), to be put into a picture.
    """
    most = max((value for _, values in lines for value in values if value), default=1)
    left = room_for([label for label, _ in lines])
    room = width - left - 80
    height = 15
    top, y = 62, 74
    out = [text(16, 24, title, "title"), text(16, 43, subtitle, "small")] + legend(16, top + 2, series)
    bottom = y + len(lines) * (height * len(series) + 10) + 4
    step = nice_step(most)
    for i in range(int(most / step) + 1):
        x = left + i * step / most * room
        out += [line(x, y, x, bottom, "grid"), text(x, bottom + 14, number(i * step), "small", "middle")]
    for label, values in lines:
        out.append(text(left - 10, y + height * len(series) / 2 + 5, label, anchor="end"))
        for (name, colour), value in zip(series, values):
            if value is not None:
                out.append(rect(left, y + 1, value / most * room, height - 2, colour, f"{label}, {name}: {number(value)}"))
                out.append(text(left + value / most * room + 5, y + height - 3, number(value), "small"))
            y += height
        y += 10
    return out, bottom + 28


def shares(title, subtitle, lines, mark, width=860):
    """[(label, share, text)]: bars in percent of a whole, with a line at `mark`."""
    left = room_for([label for label, _, _ in lines])
    most = max([1.0] + [share for _, share, _ in lines])
    room = width - left - 130
    y, height = 60, 17
    out = [text(16, 24, title, "title"), text(16, 43, subtitle, "small")]
    bottom = y + len(lines) * (height + 4)
    for i in range(int(most * 4) + 1):
        x = left + i / 4 / most * room
        out += [line(x, y, x, bottom, "grid"), text(x, bottom + 14, f"{i * 25} %", "small", "middle")]
    x = left + mark / most * room
    out += [line(x, y - 6, x, bottom, "mark")]
    for label, share, note in lines:
        colour = COLOURS["nvmx"] if share <= mark else COLOURS["noshadow"]
        out += [text(left - 10, y + 13, label, anchor="end"), rect(left, y + 1, share / most * room, height - 2, colour),
                text(left + share / most * room + 6, y + 13, note, "small")]
        y += height + 4
    return out, bottom + 28


def stacked(title, subtitle, parts, lines, width=860):
    """parts: names, in order; lines: [(label, {part: value})]."""
    left = room_for([label for label, _ in lines])
    most = max(sum(values.values()) for _, values in lines)
    used = [part for part in parts if any(values.get(part) for _, values in lines)]
    colours = {part: PALETTE[parts.index(part) % len(PALETTE)] for part in used}
    room = width - left - 90
    y, height = 60, 30
    out = [text(16, 24, title, "title"), text(16, 43, subtitle, "small")]
    for label, values in lines:
        x = left
        out.append(text(left - 10, y + 20, label, anchor="end"))
        for part in used:
            size = values.get(part, 0) / most * room
            if values.get(part):
                out.append(rect(x, y, size, height, colours[part], f"{part}: {number(values[part])}"))
            if size > 34:
                out.append(text(x + size / 2, y + 20, number(values[part]), "in", "middle"))
            x += size
        out.append(text(x + 6, y + 20, number(sum(values.values())), "small"))
        y += height + 10
    x = 16
    y += 12
    for part in used:
        size = legend_width(part)
        if x + size > width:
            x, y = 16, y + 20
        out += legend(x, y, [(part, colours[part])])
        x += size
    return out, y + 16


def lines(title, subtitle, x_label, series, *, width=860, height=330, log_x=True, log_y=False, x_text=number,
          y_text=number):
    """series: [(name, colour, [(x, y)])]."""
    points = [point for _, _, found in series for point in found]
    left, right, top, bottom = 78, width - 150, 62, height - 48
    xs = sorted({x for x, _ in points})
    low_y, high_y = (min(y for _, y in points), max(y for _, y in points))
    fx = math.log2 if log_x else float

    def place_x(value):
        span = fx(xs[-1]) - fx(xs[0])
        return left + (fx(value) - fx(xs[0])) / span * (right - left) if span else left

    def place_y(value):
        if log_y:
            low, high = math.floor(math.log10(low_y)), math.ceil(math.log10(high_y))
            return bottom - (math.log10(value) - low) / max(high - low, 1) * (bottom - top)
        return bottom - value / (high_y * 1.05) * (bottom - top)

    out = [text(16, 24, title, "title"), text(16, 43, subtitle, "small")]
    if log_y:
        ticks = [10 ** power for power in range(math.floor(math.log10(low_y)), math.ceil(math.log10(high_y)) + 1)]
    else:
        step = nice_step(high_y)
        ticks = [i * step for i in range(int(high_y * 1.05 / step) + 1)]
    for tick in ticks:
        y = place_y(tick)
        out += [line(left, y, right, y, "grid"), text(left - 8, y + 4, y_text(tick), "small", "end")]
    last = -100
    for value in xs:
        x = place_x(value)
        if x - last >= 34:
            out += [line(x, bottom, x, bottom + 4, "axis"), text(x, bottom + 18, x_text(value), "small", "middle")]
            last = x
    out += [line(left, bottom, right, bottom, "axis"), text((left + right) / 2, height - 8, x_label, "small", "middle")]
    labels = []
    for name, colour, found in series:
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in sorted(found))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in found:
            out.append(f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}">'
                       f"<title>{escape(name)}: {x_text(x)}: {y_text(y)}</title></circle>")
        labels.append([place_y(sorted(found)[-1][1]), name, colour])
    labels.sort()
    for i, entry in enumerate(labels):
        if i and entry[0] - labels[i - 1][0] < 16:
            entry[0] = labels[i - 1][0] + 16
        out += [rect(right + 10, entry[0] - 6, 10, 10, entry[2]), text(right + 25, entry[0] + 4, entry[1], "small")]
    return out, height


def below(*pieces):
    """Puts [(parts, height)] one under the other."""
    out, y = [], 0
    for parts, height in pieces:
        out.append(f'<g transform="translate(0 {y:.0f})">' + "".join(parts) + "</g>")
        y += height + 12
    return out, y
