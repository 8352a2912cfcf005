"""What the command `eto` does when the terminal, the disk or the user fails it."""

from __future__ import annotations

import errno
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eto_agents.cli import main
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[2]
CODE = "import tests.toy; from eto_agents.__main__ import main; main()"
AGENTS = """
import time


class Named:
    name = "model[/b]\\x1b[31m\\ud800|<script>alert(1)</script>"

    def reset(self, task, seed):
        pass

    def act(self, observation, info):
        return "east"


class Slow(Named):
    def act(self, observation, info):
        open("acting", "w").close()
        time.sleep(0.05)
        return "west"
"""
NAME = "model[/b]\ufffd[31m\ufffd|<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS)
    return tmp_path


def start(*arguments: str, cwd: Path, code: str = CODE, **streams: object) -> subprocess.Popen[str]:
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{cwd}", "PATH": os.environ["PATH"], "HOME": str(cwd)}
    env |= {"COLUMNS": "200", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    # On a full disk Python would write half of a module's bytecode and fail to read it later.
    env |= {"PYTHONDONTWRITEBYTECODE": "1"}
    env |= streams.pop("env", {})  # type: ignore[arg-type]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=env, text=True, **pipes
    )


def run(*arguments: str, cwd: Path, **options: object) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd, **options)  # type: ignore[arg-type]
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def evaluation(agent: str = "Named", out: str = "run") -> list[str]:
    return [
        *("eval", "--env", CORRIDOR, "--policy", f"agents:{agent}"),
        *("--splits", "seen", "--out", out),
    ]


def test_names_and_paths_are_printed_literally(folder: Path) -> None:
    code, out, errors = run(*evaluation(out="br/y[/x]\x1b[2J"), cwd=folder)
    assert code == 0, errors
    assert f"{NAME} on {CORRIDOR}" in out
    assert "written to br/y[/x]\ufffd[2J" in out
    assert "\x1b" not in out + errors
    page = (folder / "br/y[/x]\x1b[2J" / "report.md").read_text(encoding="utf-8")
    assert r"model[/b]�[31m�\|\<script\>alert(1)\</script\>" in page
    code, out, errors = run("report", "br/y[/x]\x1b[2J", "--out", "br/z[/x]", cwd=folder)
    assert code == 0, errors
    assert "written to br/z[/x]: report.html" in out


def test_log_messages_and_warnings_are_printed_literally(folder: Path) -> None:
    code = "import logging, warnings; from eto_agents.__main__ import main; main()\n"
    code += "logging.getLogger('a').warning('x\\x1b[31my'); warnings.warn('v\\x1b[31mw')"
    status, _, errors = run("data", "list", cwd=folder, code=code)
    assert (status, errors) == (0, "x\ufffd[31my\neto: warning: v\ufffd[31mw\n")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["eval", "--help"], ["data", "list"], ["evla"], evaluation()]
)
def test_a_terminal_that_knows_ascii_only(arguments: list[str], folder: Path) -> None:
    code, out, errors = run(*arguments, cwd=folder, env={"PYTHONIOENCODING": "ascii"})
    assert code == (2 if arguments == ["evla"] else 0), errors
    assert (out + errors).isascii()
    assert "Traceback" not in errors
    assert len(out + errors) > 100


def limit_files() -> None:
    """Stand in for a full disk: no file may grow beyond 2 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def test_a_full_disk_is_one_sentence(folder: Path) -> None:
    code, _, errors = run(*evaluation(), "--quiet", cwd=folder, preexec_fn=limit_files)
    assert code == 1
    assert errors == (
        f"eto: cannot use run/episodes.jsonl: {os.strerror(errno.EFBIG)}; make room, or choose a "
        "folder on another disk\n"
    )
    code, out, errors = run(*evaluation(), "--quiet", cwd=folder)  # with room it resumes
    assert code == 0, errors
    assert "1.000" in out


@pytest.mark.slow
@pytest.mark.torch
def test_a_full_disk_in_training_can_be_resumed_from(folder: Path) -> None:
    made = ["collect", "--env", "ETO-ALFWorld-v0", "--dataset", "mini", "--n-tasks", "4"]
    assert run(*made, "--out", "experts", "--quiet", cwd=folder)[0] == 0
    train = ["train", "sft", "--data", "experts", "--model", "tiny:nano", "--epochs", "1"]
    train += ["--device", "cpu", "--save-every", "1", "--quiet", "--out", "sft"]

    def limited(n_bytes: int) -> tuple[int, str, str]:
        limit = (n_bytes, n_bytes)
        return run(
            *train,
            cwd=folder,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )

    for n_bytes in (30_000, 900_000):  # too little for the weights, and for the optimiser's state
        code, _, errors = limited(n_bytes)
        assert (code, errors.count("\n")) == (1, 1), errors
        assert errors.startswith("eto: cannot use sft")
        assert not (folder / "sft" / "result.json").exists()
    code, out, errors = run(*train, cwd=folder)
    assert code == 0, errors
    assert "written to sft" in out


def test_a_full_disk_behind_stdout(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        code, _, errors = run("data", "list", cwd=folder, stdout=full)
    assert code == 1
    assert errors.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--env", CORRIDOR, "--policy", "expert", "--out", "file/run", "--quiet"],
        ["collect", "--env", CORRIDOR, "--out", "file/run", "--quiet"],
        pytest.param(
            ["train", "sft", "--data", "whole", "--out", "file/run"], marks=pytest.mark.slow
        ),
        ["report", "whole", "--out", "file/report"],
        ["replay", "whole", "--out", "file/replay.html"],
        ["export", "eto-sft", "whole", "file/sft.json"],
        pytest.param(
            ["reproduce", "--recipe", "smoke", "--out", "file/run", "--quiet"],
            marks=pytest.mark.slow,
        ),
        ["serve", "webshop", "--dataset", "mini", "--out", "file/run", "--port", "0"],
        ["data", "export", "alfworld", "file/games"],
    ],
    ids=lambda arguments: f"eto-{arguments[0]}",
)
def test_a_file_where_a_folder_should_be(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made = ["eval", "--env", "ETO-ALFWorld-v0", "--dataset", "mini", "--policy", "expert"]
    main([*made, "--splits", "seen", "--n-tasks", "1", "--out", "whole", "--quiet"])
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("eto: ")
    assert "file" in errors[-1]
    assert (tmp_path / "file").read_text() == ""


def test_a_cache_that_cannot_be_used_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("ETO_DATA_MIRROR", str(tmp_path))
    with pytest.raises(SystemExit) as exit_info:
        main(["data", "download", "eto-splits", "--quiet"])
    assert exit_info.value.code == 1
    errors = capsys.readouterr().err
    assert str(tmp_path / "file" / "cache") in errors
    assert "$ETO_DATA_DIR" in errors
    assert errors.count("\n") == 1
    main(["data", "list"])  # which only reads


def in_terminal(*arguments: str, cwd: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a command in a terminal of its own; the process, and where its output is read."""
    ours, theirs = pty.openpty()
    process = start(*arguments, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return process, ours


def chunks(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            return
        if not chunk:
            return
        yield chunk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_restores_the_cursor_and_keeps_the_episodes(
    number: signal.Signals, code: int, folder: Path
) -> None:
    process, terminal = in_terminal(*evaluation("Slow"), cwd=folder)
    seen = b""
    is_sent = False
    for chunk in chunks(terminal):
        seen += chunk
        # The display is redrawn all the time, so that chunks keep coming.
        if not is_sent and b"\x1b[?25l" in seen and (folder / "acting").exists():
            process.send_signal(number)
            is_sent = True
    os.close(terminal)
    assert process.wait(timeout=60) == code
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0
    assert b"rerun the command to resume (run)" in seen
    assert b"Traceback" not in seen
    assert b'"cancelled"' in (folder / "run" / "episodes.jsonl").read_bytes()


@pytest.mark.slow
def test_nohup_is_respected(folder: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {CODE}"
    process = start(*evaluation("Slow"), cwd=folder, code=code)
    while not (folder / "run" / "episodes.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_an_early_ctrl_c_is_silent(folder: Path) -> None:
    # Before the first line of the program, the interpreter starts and imports the package.
    code = "import eto_agents; print('started', flush=True)\n"
    code += "from eto_agents.__main__ import main; main()"
    for wait_ms in range(20, 620, 40):
        process = start("data", "list", cwd=folder, code=code)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(wait_ms / 1000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert errors in ("", "\ninterrupted\n")


@pytest.mark.parametrize("env_id", ["ETO-WebShop", "a shop", "ETO-WebShop-v9", "ETO-Webshop-v0"])
@pytest.mark.parametrize("command", ["eval", "audit", "play"])
def test_an_unknown_environment_is_a_sentence(
    env_id: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "eval": ["eval", "--env", env_id, "--policy", "random", "--out", str(tmp_path / "run")],
        "audit": ["audit", env_id],
        "play": ["play", env_id],
    }
    with pytest.raises(SystemExit) as ended:
        main(arguments[command])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("eto: ")
    assert "ETO-WebShop" in errors
    assert not (tmp_path / "run").exists()
