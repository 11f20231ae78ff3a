# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the package says of livedisk.h, held against the header by a compiler. cffi in ABI mode would not notice."""

from __future__ import annotations

import dataclasses
import enum
import re
import subprocess
import sys
from pathlib import Path

import pytest

import livedisk
from livedisk import _types, _values
from livedisk._ffi import ffi

ROOT = Path(__file__).parents[3]
HEADER = (ROOT / "include" / "livedisk.h").read_text()
CDEF = (Path(__file__).parents[1] / "src" / "livedisk" / "cdef.h").read_text()
GROUPS: dict[str, type[enum.IntEnum | enum.IntFlag]] = {
    "ERR": _values.ErrorCode,
    "METHOD": _values.Method,
    "QUIESCE": _values.Quiesce,
    "CLONE": _values.Clone,
    "PHASE": _values.Phase,
    "LOG_LEVEL": _values.LogLevel,
    "CONSISTENCY": _values.Consistency,
    "OPEN": _values.OpenFlag,
    "SNAPSHOT": _values.SnapshotFlag,
    "DISK": _values.DiskFlag,
    "MIGRATE": _values.MigrateFlag,
    "RECOVER": _values.RecoverFlag,
    "WARNING": _values.Warnings,
}


def compile_c(source: str, tmp_path: Path) -> None:
    file = tmp_path / "check.c"
    file.write_text(f"#include <stddef.h>\n#include <livedisk.h>\n{source}\n")
    subprocess.run(["cc", "-std=c11", "-fsyntax-only", "-Werror", f"-I{ROOT}/include", str(file)], check=True)


def structs() -> list[str]:
    """Those that are not opaque."""
    return re.findall(r"^struct (\w+) \{", CDEF, re.MULTILINE)


def test_layout(tmp_path: Path) -> None:
    lines = []
    for name in structs():
        kind = ffi.typeof(f"struct {name}")
        lines.append(f"_Static_assert(sizeof(struct {name}) == {ffi.sizeof(kind)}, \"{name}\");")
        for field, found in kind.fields:
            size = ffi.sizeof(found.type)
            lines.append(f"_Static_assert(offsetof(struct {name}, {field}) == {found.offset}, \"{name}.{field}\");")
            lines.append(f"_Static_assert(sizeof(((struct {name} *)0)->{field}) == {size}, \"{name}.{field}\");")
    assert len(lines) > 60
    compile_c("\n".join(lines), tmp_path)


def test_functions(tmp_path: Path) -> None:
    """Declared once more, as cffi has them."""
    declared = re.findall(r"^(?!typedef)[^\n;{}]*\blivedisk_\w+\([^;{}]*\);", CDEF, re.MULTILINE)
    assert len(declared) >= 18
    compile_c("\n".join(declared), tmp_path)
    named = set(re.findall(r"\b(livedisk_\w+)\(", " ".join(declared)))
    assert named == set(re.findall(r"^[^ */].*?\b(livedisk_\w+)\(", HEADER, re.MULTILINE))


def test_numbers(tmp_path: Path) -> None:
    known = {}
    for group, kind in GROUPS.items():
        for name, member in kind.__members__.items():
            known[f"LIVEDISK_{group}_{name}"] = int(member)
    defined = dict(re.findall(r"^#define (LIVEDISK_\w+) (-?\d+)$", HEADER, re.MULTILINE))
    defined.pop("LIVEDISK_OK")
    defined.pop("LIVEDISK_VERSION_NUMBER", None)
    missing = set(defined) - set(known)
    assert not missing, f"of the header, and not in the package: {missing}"
    lines = [
        f"#ifdef {name}\n_Static_assert({name} == {number}, \"{name}\");\n#endif" for name, number in known.items()
    ]
    compile_c("\n".join(lines), tmp_path)
    # Those of the second release, which are fixed before the header has them.
    if "LIVEDISK_VERSION_NUMBER" in HEADER:
        assert set(known) == set(defined)


def test_cdef_is_the_headers() -> None:
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "filter_header.py"), str(ROOT / "include" / "livedisk.h")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert made == CDEF, "the header has changed: see filter_header.py"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("livedisk_progress", _types.Progress),
        ("livedisk_report", _types.Report),
        ("livedisk_recovery", _types.Recovery),
        ("livedisk_checkpoint", _types.Checkpoint),
        ("livedisk_operation_info", _types.OperationInfo),
    ],
)
def test_dataclasses_have_the_fields(name: str, kind: type) -> None:
    if name not in structs():
        # Only fields that the header has can be forgotten.
        assert name == "livedisk_checkpoint" and "livedisk_list_checkpoints" not in HEADER
        return
    of_c = {field for field, _ in ffi.typeof(f"struct {name}").fields if not field.startswith("reserved")}
    of_python = {field.name for field in dataclasses.fields(kind)}
    assert of_c <= of_python and of_python - of_c <= {"full_disks"}


def test_every_code_has_a_class() -> None:
    from livedisk._errors import CLASSES

    assert set(CLASSES) == set(_values.ErrorCode)
    for kind in CLASSES.values():
        assert kind.__doc__ and getattr(livedisk, kind.__name__) is kind
        assert kind.__name__.lower() in (f"{kind.CODE.name.replace('_', '').lower()}error", "ioerror")


def test_enumerations_take_names() -> None:
    assert livedisk.Method("mirror") is livedisk.Method.MIRROR  # type: ignore[call-arg, arg-type, unused-ignore]
    assert livedisk.Quiesce("require") == 1  # type: ignore[arg-type, unused-ignore]
    assert f"{livedisk.Phase.READY} {livedisk.Consistency.CRASH!s}" == "ready crash"
    with pytest.raises(ValueError):
        livedisk.Method("miror")  # type: ignore[arg-type, unused-ignore]
    # Of a newer library.
    assert livedisk.Phase(99) == 99 and not livedisk.Phase(99).is_final
    assert livedisk.Phase(99).name == "UNKNOWN_99"


def test_version() -> None:
    cargo = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert cargo is not None and livedisk.__version__ == cargo[1]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", livedisk.version())
