"""Write the words that modules and functions of public packages are called by: the allow-list of bundles for them.

    python tools/public_words.py SITE_PACKAGES... > slmtrace/bundle/public_words.txt

Give it the directories of installations that have as many of the packages in slmtrace/bundle/words.txt as possible.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slmtrace.bundle.words import PUBLIC_PACKAGES, words_of

# A word of functions counts if so many files use it: a rare one may well be somebody's name.
_MIN_FILES = 5
_LONGEST = 24
_DEFINITION = re.compile(rb"^\s*(?:async )?def (\w+)", re.MULTILINE)
_TESTS = {"test", "tests", "testing", "test_utils"}
_COLUMNS = 120


def main() -> int:
    """Print the list."""
    modules: set[str] = set()
    files_by_word: Counter[str] = Counter()
    for root, path in _sources([Path(argument) for argument in sys.argv[1:]]):
        name = str(path.relative_to(root))
        modules |= {*words_of(name), *re.findall("[a-z]+", name.lower())}
        if path.suffix == ".py":
            functions = {name.decode() for name in _DEFINITION.findall(path.read_bytes())}
            files_by_word.update({word for function in functions for word in words_of(function)})
    words = modules | {"pyc"} | {word for word, n_files in files_by_word.items() if n_files >= _MIN_FILES}
    print("# Words of the names of modules and functions in public packages; tools/public_words.py writes this file.")
    line = ""
    for word in sorted(word for word in words if 1 < len(word) <= _LONGEST and word.isascii()):
        if len(line) + len(word) >= _COLUMNS:
            print(line)
            line = ""
        line += f" {word}" if line else word
    print(line)
    return 0


def _sources(roots: list[Path]) -> Iterator[tuple[Path, Path]]:
    library, ours = Path(sysconfig.get_paths()["stdlib"]), Path(__file__).resolve().parent.parent
    yield from ((ours, path) for path in (ours / "slmtrace").rglob("*.py"))
    for root in [library, *roots]:
        for path in root.rglob("*"):
            parts = path.relative_to(root).parts
            is_public = root == library or parts[0].partition(".")[0] in PUBLIC_PACKAGES
            is_source = path.suffix in (".py", ".so") and not _TESTS & set(parts)
            if is_public and is_source and not (root == library and "site-packages" in parts):
                yield root, path


if __name__ == "__main__":
    sys.exit(main())
