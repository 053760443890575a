"""`./scripts/package test` runs these."""

import base64
import hashlib
import tempfile
import unittest
import zipfile
from email.parser import Parser
from pathlib import Path

from make_wheel import make, platform_tags, python_version

PACKAGE = {"version": "4.0.0-alpha.1", "description": "A queue", "keywords": ["job", "queue"], "license": "MIT OR Apache-2.0"}


class Versions(unittest.TestCase):
    def test_releases_and_pre_releases_have_an_equal(self):
        pairs = {"1.2.3": "1.2.3", "4.0.0-alpha.1": "4.0.0a1", "4.0.0-beta.12": "4.0.0b12", "4.0.0-rc.1": "4.0.0rc1"}
        for cargo, python in pairs.items():
            self.assertEqual(python_version(cargo), python)

    def test_what_has_no_equal_is_refused(self):
        for version in ["1.2", "1.2.3-dev", "1.2.3-alpha", "1.2.3+build"]:
            with self.assertRaises(ValueError):
                python_version(version)


class Tags(unittest.TestCase):
    def test_a_static_binary_runs_on_either_kind_of_linux(self):
        self.assertEqual(
            platform_tags("aarch64-unknown-linux-musl"),
            ["manylinux_2_17_aarch64", "manylinux2014_aarch64", "musllinux_1_1_aarch64"],
        )

    def test_glibc_decides_which_linux(self):
        target = "x86_64-unknown-linux-gnu"
        self.assertEqual(platform_tags(target, "2.34"), ["manylinux_2_34_x86_64"])
        self.assertEqual(platform_tags(target, "2.3.4"), ["manylinux_2_17_x86_64", "manylinux2014_x86_64"])
        with self.assertRaises(ValueError):
            platform_tags(target)

    def test_other_systems(self):
        self.assertEqual(platform_tags("aarch64-apple-darwin"), ["macosx_11_0_arm64"])
        self.assertEqual(platform_tags("x86_64-pc-windows-msvc"), ["win_amd64"])
        with self.assertRaises(ValueError):
            platform_tags("riscv64gc-unknown-freebsd")


class Wheels(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.binary = self.directory / "binary"
        self.binary.write_bytes(b"\x7fELF")
        self.licence = self.directory / "LICENSE-MIT"
        self.licence.write_text("Permission is granted")

    def wheel(self, target="x86_64-unknown-linux-musl", out="out"):
        return make(PACKAGE, self.binary, target, None, "# About\n", [self.licence], self.directory / out)

    def test_the_record_is_true_of_every_file(self):
        with zipfile.ZipFile(self.wheel()) as archive:
            told = dict(
                line.split(",", 1)
                for line in archive.read("backfill_queue-4.0.0a1.dist-info/RECORD").decode().splitlines()
            )
            self.assertEqual(set(told), set(archive.namelist()))
            for path, says in told.items():
                if path.endswith("RECORD"):
                    self.assertEqual(says, ",")
                    continue
                content = archive.read(path)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                self.assertEqual(says, f"sha256={digest},{len(content)}")

    def test_it_says_what_it_is(self):
        file = self.wheel()
        self.assertEqual(
            file.name,
            "backfill_queue-4.0.0a1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64.whl",
        )
        with zipfile.ZipFile(file) as archive:
            about = Parser().parsestr(archive.read("backfill_queue-4.0.0a1.dist-info/METADATA").decode())
            tags = Parser().parsestr(archive.read("backfill_queue-4.0.0a1.dist-info/WHEEL").decode()).get_all("Tag")
        self.assertEqual((about["Name"], about["Version"]), ("backfill-queue", "4.0.0a1"))
        self.assertEqual(about.get_all("License-File"), ["LICENSE-MIT"])
        self.assertEqual(about.get_payload(), "# About\n")
        self.assertEqual(len(tags), 3)

    def test_the_program_may_be_executed(self):
        with zipfile.ZipFile(self.wheel()) as archive:
            program = archive.getinfo("backfill_queue-4.0.0a1.data/scripts/backfill")
        self.assertEqual(program.external_attr >> 16, 0o100755)

    def test_on_windows_its_name_has_an_end(self):
        with zipfile.ZipFile(self.wheel("x86_64-pc-windows-msvc")) as archive:
            self.assertIn("backfill_queue-4.0.0a1.data/scripts/backfill.exe", archive.namelist())

    def test_the_same_input_makes_the_same_wheel(self):
        self.assertEqual(self.wheel().read_bytes(), self.wheel(out="again").read_bytes())


if __name__ == "__main__":
    unittest.main()
