#!/usr/bin/env python3
"""Draws a page of `samples/` that a run wrote as one picture: the question, each turn and image in order, left to right.

    tools/draw_trajectory.py runs/grpo_ats/samples/held-out-30-0.md > recipes/trajectory.svg

Images are embedded, so the SVG stands alone. Needs Pillow, which keeps large images small.
"""

import base64
import io
import pathlib
import re
import sys
import textwrap
from xml.sax.saxutils import escape

from PIL import Image

SIDE, GAP, TOP, LINE = 220, 22, 44, 14
COLOURS = {"question": "#444444", "thought": "#3a6ea5", "call": "#9c2f73", "observation": "#2e7d32", "answer": "#b25000"}
NAMES = {"call": "code", "picture": "picture"}
BLOCK = re.compile(r"^\*\*(?P<heading>[^*]+)\*\*(?:, (?P<size>\d+x\d+))?\n\n(?:!\[[^\]]*\]\((?P<image>[^)]+)\)|(?P<fence>`{3,})text\n(?P<text>.*?)\n(?P=fence))",
                   re.M | re.S)


def panels(page):
    """(heading, text or None, image or None), in the order of the page."""
    for block in BLOCK.finditer(page.read_text()):
        heading = block["heading"]
        if block["image"]:
            yield f"{'picture' if heading == 'picture' else 'the model sees'}, {block['size']}", None, page.parent / block["image"]
        elif "<image>" not in (block["text"] or ""):
            yield heading, block["text"].strip(), None


def picture(path):
    image = Image.open(path).convert("RGB")
    if image.width > 2 * SIDE:
        image = image.resize((2 * SIDE, 2 * SIDE * image.height // image.width), Image.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode(), SIDE * image.height // image.width


def column(heading, text, path, left):
    """SVG of a column, and its width and height."""
    colour = COLOURS.get(heading, "#444444")
    parts = [f'<text x="{left}" y="24" font-weight="bold" fill="{colour}">{escape(NAMES.get(heading, heading))}</text>']
    if path:
        data, height = picture(path)
        parts.append(f'<image x="{left}" y="{TOP - 8}" width="{SIDE}" height="{height}" href="data:image/png;base64,{data}"/>')
        return parts, SIDE, TOP + height
    letters = 44 if heading == "call" else 30
    lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, letters, subsequent_indent="  ") or [""]]
    for number, line in enumerate(lines):
        parts.append(f'<text x="{left}" y="{TOP + LINE * number}" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="11" '
                     f'xml:space="preserve">{escape(line)}</text>')
    return parts, max([len(line) for line in lines] + [len(heading)]) * 6.7, TOP + LINE * len(lines)


def main():
    left, body, height = GAP, [], 0
    for heading, text, path in panels(pathlib.Path(sys.argv[1])):
        parts, width, bottom = column(heading, text, path, left)
        body += parts
        left, height = left + width + GAP, max(height, bottom)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left:.0f} {height + GAP}" width="{left:.0f}" font-family="sans-serif" '
          'font-size="14"><rect width="100%" height="100%" fill="white"/>')
    print("\n".join(body))
    print("</svg>")


if __name__ == "__main__":
    main()
