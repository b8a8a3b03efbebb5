"""Reads what nvdisasm prints of a cubin: the instructions of each kernel, its loops, and what a thread executes on the path that does the work."""

import dataclasses
import re
import subprocess

PRODUCT, MATRIX, COPY = "HMMA", "LDSM", "LDGSTS"  # mma.sync, ldmatrix, cp.async
VECTOR_LOAD, VECTOR_STORE = r"LDG\.E\S*\.128\S*", r"STG\.E\S*\.128\S*"


@dataclasses.dataclass(frozen=True)
class Loop:
    """Instructions [begin, end] of a kernel, in the order of the code."""

    begin: int
    end: int

    def holds(self, other):
        return self.begin <= other.begin and other.end <= self.end and self != other


@dataclasses.dataclass(frozen=True)
class HotLoop:
    """What a thread executes each time round the innermost loop of products."""

    instructions: int  # on the shortest path that does all the work: that of a tile without edges
    all_instructions: int  # of all paths
    products: int  # m16n8k16
    copies: int  # to shared memory, of 16 bytes
    pending: int  # groups of copies that are under way during the products


class Kernel:
    """The instructions of one kernel, and where its labels stand."""

    def __init__(self, lines, threads):
        self.threads = threads
        self.instructions, self.labels = [], {}
        for line in lines:
            label = re.match(r"\s*(\.L_x_\d+):", line)
            instruction = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)
            if label:
                self.labels[label.group(1)] = len(self.instructions)
            elif instruction:
                self.instructions.append(instruction.group(1))

    def is_a(self, at, what):
        return re.match(rf"(@!?U?P[T\d]+\s+)?({what})(?![A-Z0-9])", self.instructions[at]) is not None

    def target(self, at):
        """Where the branch at `at` goes, or None."""
        found = re.search(r"\bBRA\S* .*`\((\.L_x_\d+)\)", self.instructions[at])
        return self.labels.get(found.group(1)) if found else None

    def loops(self):
        """Every loop, by its branch backwards. A branch back from code that stands behind the end of the kernel closes none."""
        ends = ((self.target(at), at) for at in range(len(self.instructions)))
        found = [Loop(begin, end) for begin, end in ends if begin is not None and begin < end]
        return [loop for loop in found if not any(re.match("EXIT|RET", code) for code in self.instructions[loop.begin : loop.end])]

    def count(self, what, places):
        return sum(self.is_a(at, what) for at in places)

    def count_in(self, what, loop):
        return self.count(what, range(loop.begin, loop.end + 1))

    def hot_loop(self, copies=None):
        """The innermost loop of products, or None. `copies` that a thread makes each time round say how often a loop of copies within it runs."""
        with_products = [loop for loop in self.loops() if self.count_in(PRODUCT, loop)]
        if not with_products:
            return None
        loop = min(with_products, key=lambda loop: loop.end - loop.begin)
        copying = [inner for inner in self.loops() if loop.holds(inner) and self.count_in(COPY, inner)]
        copied = sum(self.count_in(COPY, inner) for inner in copying)
        turns = copies / copied if copies and copied else 1
        length, path = self.walk(loop, [PRODUCT, MATRIX] + ([] if copying else [COPY]), copying, turns)
        repeated = sum(inner.end - inner.begin + 1 for inner in copying)
        everything = loop.end - loop.begin + 1 + repeated * (turns - 1)
        made = copied * turns if copying else self.count(COPY, path)
        return HotLoop(round(length), round(everything), self.count(PRODUCT, path), round(made), self.pending(path))

    def vector_path(self, loop=None):
        """Instructions of the shortest path with all vector accesses of a loop, or of the kernel from its begin to its end."""
        region = loop or Loop(0, max(at for at in range(len(self.instructions)) if self.is_a(at, "EXIT")))
        length, path = self.walk(region, [VECTOR_LOAD, VECTOR_STORE], [], 1)
        return length, path

    def vector_loops(self):
        """The innermost loops that load vectors from memory, in the order of the code."""
        loops = [loop for loop in self.loops() if self.count_in(VECTOR_LOAD, loop)]
        return [loop for loop in loops if not any(loop.holds(inner) for inner in loops)]

    def walk(self, region, wanted, repeated, turns):
        """The path through a region with the most instructions that are `wanted`, and the fewest others: its length, and its places. Those in
        the `repeated` loops count `turns` times, and what they do is wanted of them."""
        splits = {region.begin} | {at for at in self.labels.values() if region.begin <= at <= region.end}
        splits |= {at + 1 for at in range(region.begin, region.end) if self.is_a(at, r"BRA\S*|EXIT|RET\S*")}
        starts = sorted(splits)
        ends = dict(zip(starts, starts[1:] + [region.end + 1]))
        best = {}
        for start in reversed(starts):
            block = range(start, ends[start])
            inside = any(loop.begin <= start <= loop.end for loop in repeated)
            length = len(block) * (turns if inside else 1)
            gain = 1000 * sum(self.count(what, block) for what in wanted + ([COPY] if inside else []))
            following = [best[to] for to in self.following(block[-1], region, start) if to in best]
            if self.closes(block[-1], region):
                following.append((0, 0, []))
            if following:
                score, rest, path = max(following, key=lambda known: known[0])
                best[start] = (score + gain - length, rest + length, [*block, *path])
        return best[region.begin][1:]

    def closes(self, last, region):
        """Whether what stands last in a block may end one turn through a region."""
        return self.target(last) == region.begin or (self.is_a(last, "EXIT") and region.begin == 0) or last == region.end

    def following(self, last, region, start):
        """The blocks within a region, behind `start`, that may come after one that ends at `last`."""
        code, target, found = self.instructions[last], self.target(last), []
        if target is not None and start < target <= region.end:
            found.append(target)
        # A branch that names a predicate, before it or as an operand, may fall through.
        is_sure = re.match(r"BRA `|EXIT|RET", code) is not None
        if not is_sure and last < region.end:
            found.append(last + 1)
        return found

    def pending(self, path):
        """Groups of copies that are under way while a thread computes: those that it does not wait for, and that which it starts before
        products behind which it waits again."""
        waits = [place for place, at in enumerate(path) if self.is_a(at, r"DEPBAR\.LE")]
        copies = [place for place, at in enumerate(path) if self.is_a(at, COPY)]
        if not waits or not copies:
            return 0
        groups = int(re.search(r"SB0, (0x[0-9a-f]+)", self.instructions[path[waits[0]]]).group(1), 16)
        round_trip = path[copies[-1] + 1 :] + path[: copies[-1]]
        before_wait = next(place for place, at in enumerate(round_trip) if self.is_a(at, r"DEPBAR\.LE"))
        return groups + (self.count(PRODUCT, round_trip[:before_wait]) > 0)


def kernels(nvdisasm, cubin):
    """The kernels of a cubin by their names."""
    text = subprocess.run([nvdisasm, cubin], capture_output=True, text=True, check=True).stdout
    threads = {}
    for part in text.split(".section	.nv.info.")[1:]:
        found = re.search(r"EIATTR_MAX_THREADS.*?\.word\s+(0x[0-9a-f]+)", part.split(".section	", 1)[0], re.DOTALL)
        threads[part.split(",", 1)[0]] = int(found.group(1), 16) if found else 1024
    parts = [part.split("\n//-----", 1)[0] for part in re.split(r"\n\.text\.", text)[1:]]
    return {(name := part.split(":", 1)[0]): Kernel(part.splitlines(), threads[name]) for part in parts}
