"""The image files that a printed text names, in time that is linear in the text."""
import re
from urllib.parse import unquote

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
# Where a path may end. It is no end where a word goes on: `a.png.txt`.
PATH_END = re.compile(r"\.(?:png|jpe?g|gif|bmp|tiff?|webp)(?![\w/]|\.\w)", re.IGNORECASE)
# What may stand before a path; a path may hold any of it, too.
BORDER = re.compile(r"[\s'\"`<>|,;:=()\[\]{}*]")
# A path is looked for in so many characters before its end, at so many borders.
PATH_CHARACTERS, BORDERS = 1024, 32
# So many places of a text are looked at, and no more.
PLACES = 1000


def is_image(path):
    return path.lower().endswith(IMAGE_SUFFIXES)


def named_paths(text, names, file_of):
    """(path, file) of each image file that the text names, in order, and whether more may be named. `names` are the file names there
    are, without folders; `file_of` gives the file of a path, or None. Where several paths end at a place, the longest counts: names
    may hold spaces and brackets."""
    found, behind, places = [], 0, 0
    for match in PATH_END.finditer(text):
        if places == PLACES:
            return found, True
        places += 1
        end = match.end()
        first = max(behind, end - PATH_CHARACTERS)
        first = max(first, text.rfind("\n", first, end) + 1)
        starts = [border.end() for border in BORDER.finditer(text, first, end)][-BORDERS:]
        for start in [first, *starts]:
            path = text[start:end]
            path = unquote(path[7:]) if path.startswith("file://") else path
            file = file_of(path) if path.rpartition("/")[2] in names else None
            if file is not None:
                found.append((path, file))
                behind = end
                break
    return found, False
