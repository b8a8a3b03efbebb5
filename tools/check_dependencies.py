#!/usr/bin/env python3
"""Holds every dependency of Cargo.lock to licences that may stand in a program under Apache-2.0, and to crates.io as its source.

    tools/check_dependencies.py          fails with those that are neither
"""

import json
import re
import subprocess
import sys

ALLOWED = {"0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CDLA-Permissive-2.0",
           "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib"}
SOURCE = "registry+https://github.com/rust-lang/crates.io-index"


def is_allowed(expression):
    """Whether a licence of an SPDX expression may be chosen that is allowed; "/" is the old spelling of OR."""
    terms = re.findall(r"\(|\)|\bAND\b|\bOR\b|/|[^\s()/]+(?: WITH \S+)?", expression or "")
    words = {"AND": "and", "OR": "or", "/": "or", "(": "(", ")": ")"}
    return bool(terms) and eval(" ".join(words.get(term, str(term in ALLOWED)) for term in terms))


def main():
    metadata = json.loads(subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], check=True, stdout=subprocess.PIPE).stdout)
    own = set(metadata["workspace_members"])
    faults, packages = [], [package for package in metadata["packages"] if package["id"] not in own]
    for package in packages:
        name = f'{package["name"]} {package["version"]}'
        if not is_allowed(package["license"]):
            faults.append(f'{name}: licence {package["license"] or package["license_file"]}')
        if package["source"] != SOURCE:
            faults.append(f'{name}: source {package["source"]}')
    print("\n".join(faults) or f"{len(packages)} dependencies: licences and sources are fine")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
