"""Writes tests/golden/prompt/file_urls.json: names of files, and the URLs that Python's pathlib makes of them; other URLs, and what urllib reads.

Usage: python tools/golden/file_urls.py     (the standard library only)
"""
import json
import pathlib
import random
import urllib.parse
import urllib.request

OUT = pathlib.Path(__file__).parents[2] / "tests/golden/prompt/file_urls.json"
LETTERS = list("ab9._-~ %#?&+='\"()[]{}@:;,!$*^`|<>\\") + ["é", "ß", "图", "е", "👍", "e\u0301", "\u00a0", "\t"]


def main():
    draw = random.Random(5)
    name = lambda: "x" + "".join(draw.choice(LETTERS) for _ in range(draw.randrange(1, 12)))
    made = []
    for _ in range(60):
        path = pathlib.PurePosixPath("/", *(name() for _ in range(draw.randrange(1, 4))))
        made.append([path.as_uri(), str(path)])
    read = []
    for rest in ["/a%20b.png", "/a%2520b", "/100%", "/%zz%2", "/%41%e5%9b%be", "/a+b", "//a", "/a%2Fb", "/%E9.png".lower()]:
        path = urllib.request.url2pathname(urllib.parse.urlparse("file://localhost" + rest).path)
        read.append(["file://localhost" + rest, path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")])
    lines = ",\n".join(json.dumps(case) for case in made + read)
    OUT.write_text(f'{{"cases": [\n{lines}\n]}}\n')


main()
