"""What an installation gets: the files of the wheel, the packages it asks for, and their pins."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Imported under another name than the package has.
PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
}
# Asked for by those who use them only: a message or a condition stands before each import.
OPTIONAL = {"bitsandbytes", "playwright", "spaces", "wandb"}


def asked(extra=None):
    """What the package or one of its extras asks for, the extras that it names included."""
    found = {}
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                found |= asked(other)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def pins(file):
    """name -> version of a file of pins, without what other files it refers to say."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)==([^\s\\]+)", line) for line in lines)
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def imported(files):
    """Top-level names that Python files import, the standard library aside."""
    names = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def wheel_files():
    return {
        file.distribution_path: file.path
        for file in WheelBuilder(str(ROOT)).recurse_included_files()
    }


def test_the_wheel_holds_both_packages_and_all_assets_and_nothing_else():
    files = set(wheel_files())
    for package in ("scar", "preprocessors"):
        sources = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".css", ".js", ".json", ".typed")
        }
        assert f"{package}/py.typed" in sources and sources <= files
    assets = {f"scar/{p.relative_to(ROOT)}" for p in (ROOT / "assets").rglob("*") if p.is_file()}
    assert "scar/assets/embedded/next-token/config.json" in assets and assets <= files
    assert {file.partition("/")[0] for file in files} == {"scar", "preprocessors"}
    assert not [file for file in files if file.endswith((".pyc", ".pyi"))]


def test_an_installed_package_finds_its_own_assets_from_any_folder(tmp_path):
    for file in ("scar/__init__.py", "scar/assets.py", "scar/assets/MODEL_CARD.md"):
        (tmp_path / "site" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel_files()[file], tmp_path / "site" / file)
    code = "from scar.assets import ASSETS; print(ASSETS, (ASSETS / 'MODEL_CARD.md').is_file())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.stdout.strip() == f"{tmp_path / 'site' / 'scar' / 'assets'} True", answer.stderr


def test_the_console_script_is_the_command_line(capsys):
    module, _, name = PROJECT["scripts"]["scar"].partition(":")
    with pytest.raises(SystemExit) as end:
        getattr(import_module(module), name)(["--help"])
    assert end.value.code == 0 and "edit" in capsys.readouterr().out


def test_without_the_extra_demo_the_studio_says_what_to_install():
    code = "import sys; sys.modules['gradio'] = None; from scar.__main__ import main; "
    command = [sys.executable, "-c", code + "sys.exit(main(['bench', 'ui']))"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.strip() == (
        "error: The studio needs the package gradio; install scar with the extra demo."
    )


@pytest.mark.parametrize(
    ("folder", "extra", "ours"),
    [
        ("scar", None, {"scar"}),  # all but the studio
        ("scar/studio", "demo", {"scar", "preprocessors"}),
        ("preprocessors", "preprocessors", {"scar", "preprocessors"}),
        ("train", "train", {"scar", "preprocessors", "train"}),
    ],
)
def test_what_is_imported_is_asked_for_and_imports_point_one_way(folder, extra, ours):
    files = list((ROOT / folder).rglob("*.py"))
    if folder == "scar":
        files = [file for file in files if not file.is_relative_to(ROOT / "scar" / "studio")]
    names = imported(files) - ours - OPTIONAL
    packages = {canonicalize_name(PACKAGES.get(name, name)) for name in names}
    assert packages - set(asked()) - set(asked(extra)) == set()


def test_the_pinned_files_are_what_the_project_asks_for():
    shipped = asked()
    for extra in set(EXTRAS) - {"dev"}:
        shipped |= asked(extra)
    requirements, development = pins("requirements.txt"), pins("requirements-dev.txt")
    again = "run python tools/requirements.py"
    assert set(requirements) == set(shipped), again
    assert set(development) == set(asked("dev")) - set(shipped), again
    everything = asked() | asked("dev")
    assert set(shipped) <= set(everything), "the extra dev has to name the other extras"
    for name, requirement in everything.items():
        pin = (requirements | development)[name]
        assert requirement.specifier.contains(pin), f"{requirement} has the pin {pin}; {again}"


def test_the_lock_pins_what_the_project_asks_for_by_hash_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.findall(r"^([a-z0-9._-]+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", lock, re.M)
    assert len(blocks) == len(re.findall(r"^[a-z0-9]\S*", lock, re.M)) > 50
    locked = {name: version for name, version, _ in blocks}
    asked = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for name, _, version in (line.partition("==") for line in asked if line[:1].isalpha()):
        assert locked[name.lower().replace("_", "-")] == version
    for name, _, hashes in blocks:
        found = re.findall(r"--hash=(\S+)", hashes)
        assert found and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in found), name
    assert "://" not in lock and "--index-url" not in lock


def test_a_space_runs_the_pinned_gradio_on_a_python_the_package_allows():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    front = dict(re.findall(r'^(\w+): "?([^"\n]+)"?$', readme.split("---")[1], re.M))
    assert front["sdk_version"] == pins("requirements.txt")["gradio"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(front["python_version"])


def test_the_readme_names_every_file_at_the_top():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    entries = {
        top + "/" if rest else top
        for top, _, rest in (line.partition("/") for line in listed.splitlines())
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Files")[1].split("\n## ")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert entries - named == set()
    assert [name for name in named if not (ROOT / name).exists()] == []
