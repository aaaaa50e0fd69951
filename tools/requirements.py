"""Makes the pinned files from pyproject.toml: `python tools/requirements.py [--upgrade]`.

    requirements.txt        what the package and its extras but "dev" ask for, pinned
    requirements.lock       that and all it needs in turn, with hashes: Linux x86-64, Python 3.11
    requirements-dev.txt    the first, and what only development asks for

Pins stay as they are while pyproject.toml allows them; --upgrade takes the newest ones.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = "# Made from pyproject.toml by: python tools/requirements.py\n"
TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pin the packages that pyproject.toml asks for.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shipped = [extra for extra in project["optional-dependencies"] if extra != "dev"]

    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder, "everything.txt")
        kept = [] if upgrade else [ROOT / "requirements.lock", ROOT / "requirements-dev.txt"]
        everything.write_text("".join(_pins_of(path) for path in kept), encoding="utf-8")
        resolve("--all-extras", "--output-file", str(everything))  # prefers what stands there
        text = everything.read_text(encoding="utf-8")
        options = [option for extra in shipped for option in ("--extra", extra)]
        lock = resolve(*options, "--generate-hashes", "--constraint", str(everything))
    versions = dict(re.findall(r"^([a-z0-9._-]+)==([^\s\\;]+)", text, re.M))

    sections = {"what the package itself asks for": None} | {f"extra: {e}": e for e in shipped}
    runtime = (
        f"# {title}\n" + pinned(requirements(project, extra), versions)
        for title, extra in sections.items()
    )
    _write("requirements.txt", MADE + "".join(runtime))
    development = pinned(requirements(project, "dev"), versions)
    _write("requirements-dev.txt", MADE + "-r requirements.txt\n" + development)
    _write(
        "requirements.lock",
        "# Deployment on Linux x86-64 with Python 3.11: "
        "pip install --require-hashes -r requirements.lock\n" + MADE + lock,
    )


def requirements(project: dict, extra: str | None) -> list[str]:
    """What the package itself (None) or one of its extras asks for, as in `torch>=2.9`; other
    extras that it names are left out."""
    asked = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [line for line in asked if not line.startswith(f"{project['name']}[")]


def pinned(asked: list[str], versions: dict[str, str]) -> str:
    names = [re.match(r"[\w.-]+", line)[0] for line in asked]
    return "".join(f"{name}=={versions[normalised(name)]}\n" for name in names)


def normalised(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(*options: str) -> str:
    """What uv pins for pyproject.toml, one package a line."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
    command += ["--no-header", "--no-annotate", *TARGET, *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("uv found no versions; it says why above (uv itself: pip install uv)")
    return done.stdout


def _pins_of(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = (re.match(r"[\w.-]+==[^\s\\;]+", line) for line in lines)
    return "".join(f"{pin[0]}\n" for pin in found if pin)


def _write(name: str, text: str) -> None:
    (ROOT / name).write_text(text, encoding="utf-8")
    print(f"wrote {name}")


if __name__ == "__main__":
    main()
