"""Prints the lowest versions of the dependencies that pyproject.toml allows, as constraints."""

import pathlib
import tomllib


project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
for requirement in project["dependencies"]:
    name, _, version = requirement.partition(">=")
    print(f"{name}=={version}")
