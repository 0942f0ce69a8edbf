"""`mqk dev`, which `make run` starts: the commands that it prints do what it says."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import Process, free_port, wait_until

MQK = (sys.executable, "-m", "proxy")


@pytest.mark.kafka
def test_mqk_dev(tmp_path: Path) -> None:
    listeners = json.dumps([{"bind": f"127.0.0.1:{free_port()}"}])
    settings = ["--set", f"listeners={listeners}", "--set", f"admin.bind=127.0.0.1:{free_port()}"]
    with Process([*MQK, "dev", *settings], tmp_path / "dev.log") as dev:
        dev.wait_for_output("Ctrl-C stops", 30)
        [publish] = re.findall(r"^  (mosquitto_pub .*)$", dev.output, re.MULTILINE)
        [subscribe] = re.findall(r"^  (mosquitto_sub .*)$", dev.output, re.MULTILINE)
        [tell] = re.findall(r"^  mqk (publish .*)$", dev.output, re.MULTILINE)
        subprocess.run(shlex.split(publish), check=True)
        dev.wait_for_output("key=tlink/pk/dev1/up  value=hi")
        with Process([*shlex.split(subscribe), "-C", "1"], tmp_path / "device.log") as device:
            wait_until(lambda: subprocess.run([*MQK, *shlex.split(tell)], check=False).returncode == 0, "told", 15)
            assert device.wait() == 0
            assert device.output == "hello\n"
        os.kill(dev.pid, signal.SIGINT)
        assert dev.wait(30) == 128 + signal.SIGINT
    assert "Traceback" not in dev.output
