# SPDX-License-Identifier: LGPL-2.1-or-later
"""filter_header.py HEADER: prints what cffi can read of livedisk.h. Run it when the header has changed:

    python3 filter_header.py ../../include/livedisk.h >src/livedisk/cdef.h
"""

import re
import sys

HEAD = "/* SPDX-License-Identifier: LGPL-2.1-or-later\n * Made of include/livedisk.h by filter_header.py. */\n"


def filtered(header: str) -> str:
    """The declarations and numbers of the header, without comments and what only a compiler wants."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif", "", text, flags=re.DOTALL)
    lines = []
    for line in text.splitlines():
        is_number = re.match(r"#define \w+ -?\d+\s*$", line)
        if line.strip() and (is_number or not line.startswith("#")):
            lines.append(line.rstrip())
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(filtered(file.read()))
