#!/usr/bin/env python3
"""Draws a page of `samples/` that a run wrote as one picture: the question, each turn and image in order, left to right.

    tools/draw_trajectory.py runs/grpo_ats/samples/held-out-30-0.md > recipes/trajectory.svg

Images are embedded, so the SVG stands alone.
"""

import base64
import pathlib
import re
import sys
import textwrap
from xml.sax.saxutils import escape

SIDE, GAP, LINE, COLUMNS = 224, 24, 15, 34
COLOURS = {"question": "#555555", "thought": "#4477aa", "call": "#aa3377", "observation": "#228833", "answer": "#cc6600"}


def panels(page):
    """(heading, text or None, image path or None) in the order of the page."""
    heading = None
    blocks = re.split(r"^## ", page.read_text(), flags=re.M)[1:]
    for block in blocks:
        heading, _, rest = block.partition("\n")
        for caption, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", rest):
            yield heading.strip(), caption, page.parent / path
        text = re.sub(r"!\[[^\]]*\]\([^)]+\)", "", rest).strip().strip("`").strip()
        if text:
            yield heading.strip(), text, None


def main():
    left, body, height = GAP, [], 0
    for heading, text, image in panels(pathlib.Path(sys.argv[1])):
        colour = COLOURS.get(heading, "#555555")
        body.append(f'<text x="{left}" y="20" font-weight="bold" fill="{colour}">{escape(heading)}</text>')
        if image:
            data = base64.b64encode(image.read_bytes()).decode()
            body.append(f'<image x="{left}" y="32" width="{SIDE}" height="{SIDE}" href="data:image/png;base64,{data}" '
                        'style="image-rendering:pixelated" preserveAspectRatio="xMinYMin"/>')
            height = max(height, 32 + SIDE)
        else:
            lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, COLUMNS) or [""]]
            for number, line in enumerate(lines):
                body.append(f'<text x="{left}" y="{46 + LINE * number}" font-family="monospace" font-size="11" '
                            f'xml:space="preserve">{escape(line)}</text>')
            height = max(height, 46 + LINE * len(lines))
        left += SIDE + GAP
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {height + GAP}" width="{left}" font-family="sans-serif" '
          f'font-size="14"><rect width="100%" height="100%" fill="white"/>')
    print("\n".join(body))
    print("</svg>")


if __name__ == "__main__":
    main()
