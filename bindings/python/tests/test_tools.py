# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is shipped: a wheel and an sdist, its types, its documentation, its examples."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import bed

import livedisk

HERE = Path(__file__).parents[1]
DIST = Path(os.environ.get("LIVEDISK_DIST", "."))


def python(*arguments: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def test_wheel() -> None:
    (wheel,) = DIST.glob("*.whl")
    assert wheel.name == f"livedisk-{livedisk.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    # Pure Python: no library of its own, and no libvirt.
    assert all(name.startswith("livedisk/") and name.endswith((".py", ".pyi", "py.typed", "cdef.h")) for name in names)
    assert {"livedisk/_ffi.py", "livedisk/_ffi.pyi", "livedisk/py.typed", "livedisk/__init__.py"} <= names


def test_sdist(tmp_path: Path) -> None:
    """A wheel is made of it alone, and is the same."""
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "made"), str(source))
    (made,) = (tmp_path / "made").glob("*.whl")
    (wheel,) = DIST.glob("*.whl")
    with zipfile.ZipFile(made) as one, zipfile.ZipFile(wheel) as other:
        assert {(i.filename, i.CRC) for i in one.infolist()} == {(i.filename, i.CRC) for i in other.infolist()}


def test_it_is_the_installed_one() -> None:
    assert "site-packages" in livedisk.__file__


def test_types_of_a_user(tmp_path: Path) -> None:
    """A stranger's program is checked against the installed package."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(
        "import livedisk\n"
        "async def main(path: str) -> int:\n"
        "    with livedisk.open() as connection:\n"
        "        with connection.start_live_snapshot('g', {'vda': path}, method='mirror') as operation:\n"
        "            async for progress in operation:\n"
        "                print(progress.bytes_done, progress.phase.is_final)\n"
        "            report: livedisk.Report = await operation\n"
        "            return report.freeze_ns\n"
    )
    bad.write_text("import livedisk\nlivedisk.open(5)\nx: str = livedisk.Report.freeze_ns\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    found = subprocess.run([*command, str(good)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert found.returncode == 0, found.stdout
    found = subprocess.run([*command, str(bad)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert found.returncode == 1 and "bad.py:2" in found.stdout and "bad.py:3" in found.stdout


def test_pydoc() -> None:
    text = python("-m", "pydoc", "livedisk")
    for name in livedisk.__all__:
        assert name in text


def test_everything_is_documented() -> None:
    names = 0
    for name in livedisk.__all__:
        thing = getattr(livedisk, name)
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        assert thing.__doc__, name
        members: dict[str, object] = {name: thing}
        if inspect.isclass(thing):
            members = {
                f"{name}.{member}": found
                for member, found in vars(thing).items()
                if not member.startswith("_") and (inspect.isfunction(found) or isinstance(found, property))
            }
        for path, found in members.items():
            names += 1
            assert found.__doc__, path
            if inspect.isfunction(found):
                for parameter in list(inspect.signature(found).parameters)[1:]:
                    assert re.search(rf"^ +{parameter}: ", found.__doc__, re.MULTILINE), f"{path} says nothing of {parameter}"
        if hasattr(thing, "__dataclass_fields__"):
            for field in thing.__dataclass_fields__:
                assert re.search(rf"^ +{field}: ", thing.__doc__, re.MULTILINE), f"{name}.{field}"
    assert names > 20


def test_example() -> None:
    path, record = bed.path("example"), bed.WITH_AGENT.last_record()
    output = python(
        str(HERE / "examples" / "snapshot.py"),
        bed.WITH_AGENT.domain,
        "vda",
        str(path),
        environment={**os.environ, "LIBVIRT_DEFAULT_URI": bed.uri()},
    )
    assert "filesystem-consistent, frozen for" in output and "ready" in output
    bed.check_image(path, "qcow2", True, record)
    path.unlink()


def programs(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme() -> None:
    """The first program in each README works as pasted, with the bed's names for its own."""
    for readme in HERE / "README.md", HERE.parents[1] / "README.md":
        program = programs(readme.read_text())[0]
        path, record = bed.path("readme.qcow2"), bed.WITH_AGENT.last_record()
        for name, real in {
            '"qemu:///system"': bed.uri(),
            '"guest"': bed.WITH_AGENT.domain,
            '"/backup/guest.qcow2"': str(path),
        }.items():
            assert name in program, readme
            program = program.replace(name, repr(real))
        assert "frozen for" in python("-c", program)
        bed.check_image(path, "qcow2", True, record)
        path.unlink()
