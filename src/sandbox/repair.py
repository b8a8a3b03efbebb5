"""Repairs of model-written code on its syntax tree. Each repair made is named in `made`; the names are those of `repair.rs`."""
import ast
import textwrap

from printed import is_image

PATH_NAMES = {"image_path", "img_path", "input_path", "input_image_path", "image_file"}
OPENCV_NAMES = {"cv", "cv3", "cv4", "CV"}
# Longer code is run as it is.
CHARACTERS_MAX = 1 << 18
OPENERS, SAVERS = {"open", "imread"}, {"save", "imwrite"}


def parse(code, filename, made):
    """The syntax tree, with the indentation repaired if that is what it takes, and the code that it is of; None for code that is too
    long to be repaired or nested too deeply for a tree, else the SyntaxError of the code as written."""
    if len(code) > CHARACTERS_MAX:
        return None, code
    try:
        return ast.parse(code, filename), code
    except RecursionError:
        return None, code
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


class Repairs:
    """`image_path` and `exists` (is there a file of this path?) are the session's; `known` are the names already defined."""

    def __init__(self, image_path, exists, known, made):
        self.image_path, self.exists, self.known, self.made = image_path, exists, set(known), made
        # The literal paths that the code opens, whether it sets `processed_path`, and whether the tree differs from the code.
        self.opened, self.assigns_processed_path, self.is_changed = set(), False, False

    def run(self, tree):
        """Repairs the tree in place."""
        # Not by recursion: a sum of a thousand terms is a deep tree.
        nodes = list(ast.walk(tree))
        saved = set()
        for node in nodes:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.known.add(node.id)
                self.assigns_processed_path |= node.id == "processed_path"
            elif isinstance(node, ast.alias):
                self.known.add(node.asname or node.name.split(".")[0])
            elif isinstance(node, ast.arg):
                self.known.add(node.arg)
            elif isinstance(node, ast.Call):
                self.look_at_call(node, saved)
        for node in nodes:
            if isinstance(node, ast.Attribute):
                self.name_opencv(node.value)
            elif isinstance(node, ast.Assign):
                self.name_input(node, saved)

    def look_at_call(self, node, saved):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        argument = node.args[0] if node.args else None
        if called in OPENERS and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            # Whether the file exists is known when the call runs: code may open what it has just written.
            self.opened.add(argument.value)
        elif called in SAVERS and isinstance(argument, ast.Name):
            saved.add(argument.id)

    def name_opencv(self, base):
        if isinstance(base, ast.Name) and base.id in OPENCV_NAMES and base.id not in self.known:
            base.id, self.is_changed = "cv2", True
            self.made.add("cv2_name")

    def name_input(self, node, saved):
        """The real path in place of a literal image path that does not exist, in a name that means the input."""
        target = node.targets[0] if len(node.targets) == 1 else None
        value = node.value.value if isinstance(node.value, ast.Constant) else None
        if not isinstance(target, ast.Name) or target.id not in PATH_NAMES - saved or not isinstance(value, str):
            return
        if is_image(value) and not self.exists(value):
            self.made.add("image_path")
            node.value, self.is_changed = ast.copy_location(ast.Constant(self.image_path), node.value), True
