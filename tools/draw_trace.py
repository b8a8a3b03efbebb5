#!/usr/bin/env python3
"""Draws part of a trace that `thyme-engine --trace` wrote, a lane for each thread.

    tools/draw_trace.py trace.json FROM TO > trace.svg      FROM and TO in seconds from the trace's begin
"""

import json
import sys
from xml.sax.saxutils import escape

COLOURS = {"step": "#4477aa", "schedule": "#bbbbbb", "encode images": "#66ccee", "prepare": "#228833", "call": "#ee6677",
           "accumulate": "#aa3377", "update": "#ccbb44", "roll out": "#dddddd"}
WIDTH, LANE, LEFT = 1200, 26, 90


def spans(events):
    """(thread, depth, name, begin, end) in seconds from the first event."""
    first = min(event["ts"] for event in events if "ts" in event)
    open_spans = {}
    for event in events:
        stack = open_spans.setdefault(event["tid"], [])
        if event["ph"] == "B":
            stack.append((event["name"], (event["ts"] - first) / 1e6))
        elif event["ph"] == "E" and stack:
            name, begin = stack.pop()
            yield event["tid"], len(stack), name, begin, (event["ts"] - first) / 1e6


def main():
    path, begin, end = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    shown = [span for span in spans(json.load(open(path))) if span[4] > begin and span[3] < end and span[2] in COLOURS]
    threads = sorted({span[0] for span in shown})
    legend = [name for name in COLOURS if any(span[2] == name for span in shown)]
    height = LANE * (len(threads) + 2) + 10
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">')
    print(f'<rect width="{WIDTH}" height="{height}" fill="white"/>')
    place = lambda at: LEFT + (min(max(at, begin), end) - begin) / (end - begin) * (WIDTH - LEFT - 10)
    for lane, thread in enumerate(threads):
        print(f'<text x="4" y="{LANE * lane + 18}">thread {thread}</text>')
    for thread, depth, name, start, stop in sorted(shown, key=lambda span: span[1]):
        left, width = place(start), max(place(stop) - place(start), 0.4)
        top = LANE * threads.index(thread) + 4 + 3 * min(depth, 2)
        print(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{LANE - 8 - 3 * min(depth, 2)}" fill="{COLOURS[name]}"/>')
    below = LANE * len(threads) + 16
    for tick in range(6):
        at = begin + (end - begin) * tick / 5
        print(f'<text x="{place(at) - 20:.0f}" y="{below}" fill="#555">{1e3 * (at - begin):.0f} ms</text>')
    for number, name in enumerate(legend):
        left = LEFT + 130 * number
        print(f'<rect x="{left}" y="{below + 10}" width="14" height="14" fill="{COLOURS[name]}"/>')
        print(f'<text x="{left + 20}" y="{below + 22}">{escape(name)}</text>')
    print("</svg>")


if __name__ == "__main__":
    main()
