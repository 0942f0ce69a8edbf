"""The Dockerfile, without a container engine: its install steps run in a clean folder, its other lines are read."""

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parent.parent
#: Where the build stage works and installs. In the test both lie in a folder of its own.
BUILD, INSTALLED = "/build", "/opt/mqk"


class Instruction(NamedTuple):
    word: str
    arguments: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, comments gone and continued lines joined, each stage beginning with its FROM."""
    lines = [line for line in (PROJECT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    found: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction = Instruction(*line.split(maxsplit=1))
        if instruction.word == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def arguments_of(word: str, stage: list[Instruction]) -> str:
    [arguments] = [instruction.arguments for instruction in stage if instruction.word == word]
    return arguments


def copies(stage: list[Instruction]) -> Iterator[tuple[list[str], str]]:
    """Sources and destination of each COPY."""
    for instruction in stage:
        if instruction.word == "COPY":
            *sources, destination = shlex.split(instruction.arguments)
            yield sources, destination


def copy(sources: list[str], destination: Path) -> None:
    for source in (PROJECT / name for name in sources):
        if source.is_dir():
            shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, destination)


def run(command: str, directory: Path, root: Path) -> None:
    """Runs a shell command in `directory`, with Python as the image has it: `python` is on the path."""
    for absolute in (BUILD, INSTALLED):
        command = re.sub(rf"(?<!\S){absolute}(?=/|\s|$)", str(root) + absolute, command)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=directory, env=environment, check=False, **pipes)
    assert done.returncode == 0, f"{command}\n{done.stdout}"


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on 127.0.0.1 that answers /livez with `status` and anything else with 404; gives its port."""

    class Livez(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Livez) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def health_check(port: int) -> int:
    """The exit status of the image's health check, asked of another port."""
    command = json.loads(arguments_of("HEALTHCHECK", stages()[1]).partition("CMD ")[2])
    [program, flag, code] = command
    assert (program, flag) == ("python", "-c")
    assert "8080" in code
    return subprocess.run(
        [sys.executable, "-c", code.replace("8080", str(port))], stderr=subprocess.DEVNULL, check=False
    ).returncode


@pytest.mark.install
def test_the_install_steps_give_a_working_command(tmp_path: Path) -> None:
    build, _ = stages()
    directory = tmp_path
    for word, arguments in build[1:]:
        if word == "WORKDIR":
            directory = tmp_path / arguments.lstrip("/")
            directory.mkdir(parents=True)
        elif word == "COPY":
            *sources, destination = shlex.split(arguments)
            copy(sources, directory / destination)
        elif arguments.startswith("apt-get "):
            assert shutil.which("gcc"), "what this step installs is what `make test` needs too"
        else:
            assert word == "RUN", f"this test does not know {word}"
            run(arguments, directory, tmp_path)
    shutil.rmtree(tmp_path / BUILD.lstrip("/"))  # The image has what was installed, not what it was made of.
    version = subprocess.check_output([f"{tmp_path}{INSTALLED}/bin/mqk", "--version"], cwd=tmp_path, text=True)
    assert re.search(r"\d+\.\d+", version)
    assert list((tmp_path / INSTALLED.lstrip("/")).glob("lib/*/site-packages/proxy/session/*.so")), "it is compiled"
    listed = subprocess.check_output([f"{tmp_path}{INSTALLED}/bin/pip", "list", "--format=freeze"], text=True)
    packages = {package.lower().replace("_", "-") for package in listed.split()}
    names = {package.partition("==")[0] for package in packages}
    assert "uvloop" in names
    assert names.isdisjoint({"pytest", "mypy", "hypothesis"})
    not_locked = packages - set((PROJECT / "requirements.lock").read_text().split())
    assert {package.partition("==")[0] for package in not_locked} <= {"pip", "setuptools", "mqtt-kafka-proxy"}


def test_the_install_steps_reach_what_they_copy() -> None:
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for sources, _ in copies(stages()[0]) for source in sources}
    assert copied == kept


def test_the_image_runs_the_installed_command_as_nobody_special() -> None:
    stage = stages()[1]
    assert arguments_of("COPY", stage) == f"--from=build {INSTALLED} {INSTALLED}"
    assert f"PATH={INSTALLED}/bin:$PATH" in arguments_of("ENV", stage)
    assert int(arguments_of("USER", stage)) > 0
    assert f"--uid {arguments_of('USER', stage)} " in arguments_of("RUN", stage)
    assert json.loads(arguments_of("ENTRYPOINT", stage)) == ["mqk", "serve"]
    assert json.loads(arguments_of("CMD", stage)) == ["--config", "/etc/mqk/mqk.toml"]
    assert arguments_of("EXPOSE", stage) == "1883"


def test_the_image_has_a_python_that_the_project_supports() -> None:
    [image] = {stage[0].arguments.split()[0] for stage in stages()}
    minor = int(re.fullmatch(r"python:3\.(\d+)-slim-bookworm", image)[1])
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert minor >= int(re.fullmatch(r">=3\.(\d+)", required)[1])


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_believes_livez(status: int, expected: int) -> None:
    with answering(status) as port:
        assert health_check(port) == expected


def test_the_health_check_fails_when_nothing_listens() -> None:
    with answering(200) as port:
        pass
    assert health_check(port) == 1
