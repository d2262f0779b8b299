"""The scenarios, on the component that is deployed: `pytest`."""

import pathlib
import subprocess

import pytest

FOLDER = pathlib.Path(__file__).parent


def run(*line):
    ran = subprocess.run(line, cwd=FOLDER, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="session", autouse=True)
def built():
    run("agent-host", "build")


@pytest.mark.parametrize("scenario", sorted(path.name for path in FOLDER.glob("scenarios/*.toml")))
def test_scenario(scenario):
    run("agent-sim", "test", f"scenarios/{scenario}", "--agent", ".")
