"""requirements.lock has all that pyproject.toml asks for, at versions it allows. `make lock` writes it."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent
LOCK = (PROJECT / "requirements.lock").read_text()
#: The version of each package, by name.
LOCKED = {
    canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
    for requirement in (Requirement(line) for line in LOCK.splitlines() if line and line[0] not in " #")
}


def declared() -> list[str]:
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = pyproject["project"]
    groups = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
    ]
    return [requirement for group in groups for requirement in group]


@pytest.mark.parametrize("declaration", declared())
def test_the_lock_has_what_pyproject_asks_for(declaration: str) -> None:
    requirement = Requirement(declaration)
    assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_names_no_registry() -> None:
    assert "://" not in LOCK
