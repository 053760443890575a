#!/usr/bin/env python3
"""Makes a wheel that carries the binary. Nothing but Python's own library is needed.

A wheel is a zip file with three files about itself. What lies below `NAME-VERSION.data/scripts` is put beside `python` by whoever
installs the wheel, so the program runs without Python.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import time
import zipfile
from pathlib import Path

NAME = "backfill-queue"
CRATE = "backfill-cli"

# The words for pre-releases in the versions of Cargo, and in those of Python.
PRE_RELEASES = {"alpha": "a", "beta": "b", "rc": "rc"}

# What Rust calls a processor, and what Python's tags call it.
WINDOWS = {"x86_64": "amd64", "aarch64": "arm64"}
MACOS = {"x86_64": "x86_64", "aarch64": "arm64"}

# The oldest system that scripts/package builds for. It sets MACOSX_DEPLOYMENT_TARGET to the same.
MACOS_VERSION = "11_0"

# The oldest that has a tag. No Rust program runs on an older one.
OLDEST_GLIBC = (2, 17)


def python_version(version: str) -> str:
    """Cargo's 4.0.0-alpha.1 is 4.0.0a1 to Python."""
    found = re.fullmatch(r"(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.(\d+))?", version)
    if not found:
        raise ValueError(f"the version {version} has no equal in Python; use X.Y.Z, or X.Y.Z-alpha.N, -beta.N or -rc.N")
    release, word, number = found.groups()
    return release if word is None else f"{release}{PRE_RELEASES[word]}{number}"


def platform_tags(target: str, glibc: "str | None" = None) -> "list[str]":
    """The systems on which a binary for this target runs, as tags. `glibc` is the version that it wants."""
    cpu = target.split("-")[0]
    if target.endswith("-linux-musl"):
        # It is static, so it runs whatever C library a system has.
        return [f"manylinux_2_17_{cpu}", f"manylinux2014_{cpu}", f"musllinux_1_1_{cpu}"]
    if target.endswith("-linux-gnu"):
        if glibc is None:
            raise ValueError("for glibc its version is needed")
        wanted = max(OLDEST_GLIBC, tuple(int(part) for part in glibc.split(".")[:2]))
        tags = [f"manylinux_{wanted[0]}_{wanted[1]}_{cpu}"]
        # Older installers know 2.17 by this name only.
        return tags + [f"manylinux2014_{cpu}"] if wanted == OLDEST_GLIBC else tags
    if "-windows-" in target and cpu in WINDOWS:
        return [f"win_{WINDOWS[cpu]}"]
    if target.endswith("-apple-darwin") and cpu in MACOS:
        return [f"macosx_{MACOS_VERSION}_{MACOS[cpu]}"]
    raise ValueError(f"no tag is known for the target {target}")


def metadata_text(package: dict, description: str, licences: "list[str]") -> str:
    """The file METADATA."""
    fields = [
        ("Metadata-Version", "2.4"),
        ("Name", NAME),
        ("Version", python_version(package["version"])),
        ("Summary", package["description"]),
        ("Keywords", ",".join(package["keywords"])),
        ("License-Expression", package["license"]),
        *(("License-File", licence) for licence in licences),
        *([("Project-URL", f"Source, {package['repository']}")] if package.get("repository") else []),
        ("Requires-Python", ">=3.8"),
        ("Description-Content-Type", "text/markdown"),
    ]
    return "".join(f"{name}: {value}\n" for name, value in fields) + "\n" + description


def wheel_text(tags: "list[str]") -> str:
    """The file WHEEL."""
    return "Wheel-Version: 1.0\nGenerator: backfill\nRoot-Is-Purelib: false\n" + "".join(
        f"Tag: py3-none-{tag}\n" for tag in tags
    )


def record_line(path: str, content: bytes) -> str:
    """What RECORD says of one file."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def moment() -> "tuple[int, ...]":
    """The time that every entry gets, so that the same input makes the same wheel. A zip file knows no year before 1980."""
    return time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800))[:6]


def write_wheel(file: Path, entries: "list[tuple[str, bytes, int]]", record: str) -> None:
    """Writes paths with their content and permissions, and RECORD as the last one."""
    lines = "".join(record_line(path, content) for path, content, _ in entries) + f"{record},,\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content, mode in [*entries, (record, lines.encode(), 0o644)]:
            entry = zipfile.ZipInfo(path, moment())
            entry.compress_type = zipfile.ZIP_DEFLATED
            # Unix, whatever this machine is: only there are permissions kept.
            entry.create_system = 3
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, content)


def make(package: dict, binary: Path, target: str, glibc: "str | None", description: str, licences: "list[Path]", out: Path) -> Path:
    """Makes the wheel in the directory `out`, and answers where it is."""
    version = python_version(package["version"])
    tags = platform_tags(target, glibc)
    stem = f"{NAME.replace('-', '_')}-{version}"
    about = f"{stem}.dist-info"
    program = "backfill.exe" if "-windows-" in target else "backfill"
    texts = [
        (f"{about}/METADATA", metadata_text(package, description, [licence.name for licence in licences])),
        (f"{about}/WHEEL", wheel_text(tags)),
    ]
    entries = [(f"{stem}.data/scripts/{program}", binary.read_bytes(), 0o755)]
    entries += [(path, text.encode(), 0o644) for path, text in texts]
    entries += [(f"{about}/licenses/{licence.name}", licence.read_bytes(), 0o644) for licence in licences]
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{stem}-py3-none-{'.'.join(tags)}.whl"
    write_wheel(file, entries, f"{about}/RECORD")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", type=Path, required=True, help="what `cargo metadata --no-deps` says")
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--target", required=True, help="what Rust calls the system, such as x86_64-unknown-linux-musl")
    parser.add_argument("--glibc", help="the version of glibc that the binary wants, such as 2.17")
    parser.add_argument("--description", type=Path, required=True)
    parser.add_argument("--licence", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    packages = json.loads(args.metadata.read_text(encoding="utf-8"))["packages"]
    package = next(package for package in packages if package["name"] == CRATE)
    description = args.description.read_text(encoding="utf-8")
    try:
        print(make(package, args.binary, args.target, args.glibc, description, args.licence, args.out))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
