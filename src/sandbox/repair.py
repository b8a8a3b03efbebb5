"""Repairs of model-written code on its syntax tree. Each repair made is named in `made`; the names are those of `repair.rs`."""
import ast
import os
import textwrap

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
PATH_NAMES = {"image_path", "img_path", "input_path", "input_image_path", "image_file"}
BOX_NAMES = {"crop_box", "bbox", "box", "coordinates", "coords", "crop_coords"}
BOX_NAMES |= {f"{side}_crop_coords" for side in ("left", "right", "top", "bottom")}
# Which corner of the box a variable names: 0 left, 1 top, 2 right, 3 bottom.
SIDES = {"x1": 0, "left": 0, "y1": 1, "top": 1, "x2": 2, "right": 2, "y2": 3, "bottom": 3}
OPENERS = {"open", "imread"}
CROP_SIDE_MIN = 64
THYME_FOLDER = "/mnt/data/temp_processed_images"
# Where code likes to write, and may not: any path under the first, an image under the second.
DATA_FOLDER, TEMPORARY_FOLDER = "/mnt/data/", "/tmp/"
# A builtin of the session: (array, top, bottom, left, right) -> the part cut out.
SLICE_FUNCTION = "__thyme_slice__"


def clamp_span(low, high, limit):
    """One side of a box, inside 0..limit and at least 64 px where the image has them: extended at its end, then shifted."""
    low, high = sorted((int(round(low)), int(round(high))))
    low, high = max(0, min(low, limit)), max(0, min(high, limit))
    high = min(max(high, low + CROP_SIDE_MIN), limit)
    return max(0, min(low, high - CROP_SIDE_MIN)), high


def clamp_box(box, size):
    (left, right), (top, bottom) = clamp_span(box[0], box[2], size[0]), clamp_span(box[1], box[3], size[1])
    return left, top, right, bottom


def parse(code, filename, made):
    """The syntax tree, with the indentation repaired if that is what it takes; else the SyntaxError of the code as written."""
    try:
        return ast.parse(code, filename), code
    except SyntaxError as error:
        first_error = error
    lines = code.expandtabs(4).split("\n")
    start = next((row for row, line in enumerate(lines) if line.strip()), 0)
    rest = textwrap.dedent("\n".join(lines[start + 1:])).split("\n")
    candidates = (
        textwrap.dedent("\n".join(lines)),
        "\n".join(lines[:start] + [lines[start].strip()] + rest),
        "\n".join(lines[:start] + [lines[start].strip()] + lines[start + 1:]),
    )
    for candidate in candidates:
        try:
            tree = ast.parse(candidate, filename)
        except SyntaxError:
            continue
        made.add("indentation")
        return tree, candidate
    raise first_error


def number_of(node):
    """The value of a numeric literal, or None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = number_of(node.operand)
        return None if value is None else -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and abs(node.value) < 1e9:
        return node.value
    return None


def numbers_of(node):
    """The four numbers of a literal box, or None."""
    if not isinstance(node, (ast.Tuple, ast.List)) or len(node.elts) != 4:
        return None
    values = [number_of(element) for element in node.elts]
    return None if None in values else values


class Repairs(ast.NodeTransformer):
    """`image_path`, `output_folder` and `size` (width, height) of the session; `known` are the names already defined."""

    def __init__(self, image_path, output_folder, size, known, made):
        self.image_path, self.output_folder, self.size, self.made = image_path, output_folder, size, made
        self.known = set(known)
        # The literal paths that the code opens, and those that were moved into the output folder.
        self.opened, self.moved = set(), set()

    def run(self, tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.known.add(node.id)
            elif isinstance(node, ast.alias):
                self.known.add(node.asname or node.name.split(".")[0])
            elif isinstance(node, ast.arg):
                self.known.add(node.arg)
        return ast.fix_missing_locations(self.visit(tree))

    def visit_Constant(self, node):
        if isinstance(node.value, str) and THYME_FOLDER in node.value and not os.path.isdir(THYME_FOLDER):
            value = node.value.replace(THYME_FOLDER + "/", self.output_folder).replace(THYME_FOLDER, self.output_folder.rstrip("/"))
            return ast.copy_location(ast.Constant(value), node)
        if isinstance(node.value, str):
            return self.moved_path(node)
        return node

    def moved_path(self, node):
        """A literal path where nothing may be written, in the output folder instead."""
        path = node.value
        own = path.startswith((self.output_folder, os.path.dirname(self.image_path))) or path.startswith(THYME_FOLDER)
        folder = DATA_FOLDER if path.startswith(DATA_FOLDER) else TEMPORARY_FOLDER
        is_image = path.lower().endswith(IMAGE_SUFFIXES)
        if own or not path.startswith(folder) or "\n" in path or not (is_image or folder == DATA_FOLDER) or os.path.exists(path):
            return node
        value = self.output_folder + path[len(folder):]
        self.moved.add(value)
        if not is_image:
            self.made.add("output_path")
        return ast.copy_location(ast.Constant(value), node)

    def visit_Attribute(self, node):
        self.generic_visit(node)
        base = node.value
        if isinstance(base, ast.Name) and base.id in {"cv", "cv3", "cv4", "CV"} and base.id not in self.known:
            base.id = "cv2"
            self.made.add("cv2_name")
        return node

    def visit_Assign(self, node):
        self.generic_visit(node)
        target = node.targets[0] if len(node.targets) == 1 else None
        if isinstance(target, ast.Name):
            if target.id in PATH_NAMES:
                node.value = self.existing_path(node.value)
            elif target.id in BOX_NAMES:
                node.value = self.clamped(node.value, (0, 1, 2, 3))
            elif isinstance(node.value, ast.Subscript):
                node.value = self.cropped(node.value)
        elif isinstance(target, (ast.Tuple, ast.List)) and len(target.elts) == 4:
            names = [element.id if isinstance(element, ast.Name) else None for element in target.elts]
            if any(name in SIDES for name in names):
                order = tuple(SIDES.get(name) for name in names)
                node.value = self.clamped(node.value, order if sorted(map(str, order)) == list("0123") else (0, 1, 2, 3))
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if node.args and called in OPENERS and isinstance(node.args[0], ast.Constant):
            # Whether the file exists is known when the call runs: code may open what it has just written.
            self.opened.add(node.args[0].value)
        return node

    def existing_path(self, node):
        """The real path in place of a literal image path that does not exist."""
        is_path = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_path and node.value.lower().endswith(IMAGE_SUFFIXES) and not os.path.exists(node.value):
            if not node.value.startswith(self.output_folder) or node.value in self.moved:
                self.made.add("image_path")
                return ast.copy_location(ast.Constant(self.image_path), node)
        return node

    def clamped(self, node, order):
        """A literal box inside the image; `order[i]` is the side (left, top, right, bottom) that element i names."""
        values = numbers_of(node)
        if values is None:
            return node
        box = [values[order.index(side)] for side in range(4)]
        wanted = clamp_box(box, self.size)
        if list(wanted) == box:
            return node
        self.made.add("crop_clamp")
        node.elts = [ast.copy_location(ast.Constant(wanted[side]), node) for side in order]
        return node

    def cropped(self, subscript):
        """`image[y1:y2, x1:x2]` as a call that knows, when it runs, whether it is the input image that is cut."""
        index = subscript.slice
        parts = index.elts if isinstance(index, ast.Tuple) and len(index.elts) in (2, 3) else []
        if not parts or not all(isinstance(part, ast.Slice) and part.step is None for part in parts):
            return subscript
        bounds = [bound for part in parts[:2] for bound in (part.lower, part.upper)]
        if None in bounds or (len(parts) == 3 and (parts[2].lower or parts[2].upper)):
            return subscript
        call = ast.Call(ast.Name(SLICE_FUNCTION, ast.Load()), [subscript.value, *bounds], [])
        return ast.copy_location(call, subscript)
