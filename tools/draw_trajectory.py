#!/usr/bin/env python3
"""Draws a page of `samples/` that a run wrote as one picture: the question and its picture, what the model writes, what it sees then, and so on; a
column for each, left to right.

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

SIDE, GAP, LINE, LETTER, FONT = 240, 24, 17, 7.9, 13
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


def panel(heading, text, path, left, top):
    """SVG of a panel at a place, its width and its bottom."""
    colour = COLOURS.get(heading, "#444444")
    parts = [f'<text x="{left}" y="{top + FONT}" font-weight="bold" fill="{colour}">{escape(NAMES.get(heading, heading))}</text>']
    top += LINE + 6
    if path:
        data, height = picture(path)
        parts.append(f'<image x="{left}" y="{top}" width="{SIDE}" height="{height}" href="data:image/png;base64,{data}"/>')
        return parts, SIDE, top + height
    letters = 38 if heading in ("call", "thought") else SIDE // int(LETTER)
    lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, letters, subsequent_indent="  ") or [""]]
    for number, line in enumerate(lines):
        parts.append(f'<text x="{left}" y="{top + FONT + LINE * number}" font-family="ui-monospace,Menlo,Consolas,monospace" '
                     f'xml:space="preserve">{escape(line)}</text>')
    return parts, max(map(len, lines)) * LETTER, top + LINE * len(lines)


def columns(panels):
    """Panels that stand below one another: a column begins where the model begins to write, and where it is shown an image."""
    columns, writes = [[]], False
    for heading, text, path in panels:
        begins = heading in ("thought", "call") and not writes or path and writes
        if begins and columns[-1]:
            columns.append([])
        writes = writes or heading in ("thought", "call")
        columns[-1].append((heading, text, path))
    return columns


def main():
    left, body, height = GAP, [], 0
    for stack in columns(panels(pathlib.Path(sys.argv[1]))):
        top, wide = GAP, 0
        for heading, text, path in stack:
            parts, width, bottom = panel(heading, text, path, left, top)
            body += parts
            top, wide = bottom + GAP, max(wide, width)
        left, height = left + wide + GAP, max(height, top)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left:.0f} {height}" width="{left:.0f}" font-family="sans-serif" '
          f'font-size="{FONT}"><rect width="100%" height="100%" fill="white"/>')
    print("\n".join(body))
    print("</svg>")


if __name__ == "__main__":
    main()
