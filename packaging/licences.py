#!/usr/bin/env python3
"""Prints the licences of all libraries that are in the binary, as these ask for.

usage: licences.py CRATE < what `cargo metadata --filter-platform TRIPLE` says
"""

import json
import sys
from pathlib import Path

NAMES = ("license", "licence", "copying", "notice", "unlicense", "copyright")


def linked(metadata: dict, crate: str) -> "list[dict]":
    """The packages that end up in the binary of this crate: not those that only build or test it, and not our own."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting = [package["id"] for package in packages.values() if package["name"] == crate and package["source"] is None]
    found = set()
    while waiting:
        node = nodes[waiting.pop()]
        for dependency in node["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    others = (packages[one] for one in found)
    return sorted((package for package in others if package["source"]), key=lambda one: (one["name"], one["version"]))


def texts(package: dict) -> "list[str]":
    """The licence texts that a package carries."""
    directory = Path(package["manifest_path"]).parent
    files = sorted(file for file in directory.iterdir() if file.is_file() and file.name.lower().startswith(NAMES))
    return [file.read_text(encoding="utf-8", errors="replace").strip() for file in files]


def main() -> None:
    packages = linked(json.load(sys.stdin), sys.argv[1])
    if not packages:
        sys.exit(f"error: {sys.argv[1]} has no libraries")
    users: "dict[str, list[str]]" = {}
    print("The program contains these libraries. Below the list are the texts that they come with.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see its text'}")
        for text in texts(package):
            users.setdefault(text, []).append(name)
    print("\nSQLite, which libsqlite3-sys carries, is in the public domain.")
    for text, names in users.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n{'-' * 80}\n{text}")


if __name__ == "__main__":
    main()
