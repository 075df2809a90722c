"""Every command and every example in the docs is run.

Each document is followed from top to bottom, as a reader would, in one empty directory:

- ```python blocks are run by a Python of their own, with warnings as errors.
- ```console blocks hold commands after `$ ` (continued after `> ` or a backslash) and what they
  print. A command must succeed and print the lines shown in their order; `...` stands for anything,
  any number for any number, and not every line has to be shown.
- A command that ends in ` &`, and every `twinwire serve`, `twinwire demo` and `scripts/demo`, runs
  on in the background until the end of the document; the next one starts when it has printed what
  is shown and, if it serves, is ready.
- 8000 becomes a free port wherever it stands and is TWINWIRE_PORT; `scripts` and `examples` are at
  hand.
- `<!-- test: skip REASON -->` before a block leaves it out.
- `<!-- test: file NAME -->` before a block of any language writes it to that file instead.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired, run

import pytest

from tests import ROOT
from tests.servers import Command, answers, plain_environment, unused_port

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PORT = "8000"
PATIENCE = 30  # seconds for one block's command

MARKER = re.compile(r"<!--\s*test:\s*(\w+)\s+(.+?)\s*-->")
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
SERVES = re.compile(r"twinwire +(serve\b(?!.*--check-config)|demo\b)|scripts/demo\b", re.DOTALL)
UNTESTED_SHELLS = {"bash", "sh", "shell", "zsh"}


class DocError(Exception):
    """Something in a document that does not hold."""


@dataclass
class Step:
    """A command and the lines that the document shows after it."""

    line: int
    command: str
    shown: list[str] = field(default_factory=list)

    @property
    def in_background(self) -> bool:
        return self.command.endswith("&") or self.serves

    @property
    def serves(self) -> bool:
        return bool(SERVES.match(self.command)) and "--help" not in self.command


@dataclass
class Block:
    line: int
    language: str
    text: str
    marker: str = ""
    argument: str = ""

    def steps(self) -> Iterator[Step]:
        step: Step | None = None
        continues = False
        for number, line in enumerate(self.text.splitlines(), self.line + 1):
            if step and continues:
                step.command += "\n" + line.removeprefix("> ")
            elif line.startswith("$ "):
                if step:
                    yield step
                step = Step(number, line.removeprefix("$ ").strip())
            elif step and line.startswith("> ") and not step.shown:
                step.command += "\n" + line.removeprefix("> ")
            elif step:
                step.shown.append(line)
            elif line.strip():
                raise DocError(f"line {number}: output before the first `$ ` command: {line}")
            continues = bool(step) and line.endswith("\\")
        if step:
            yield step


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown document, with the marker right before each."""
    lines = iter(enumerate(text.splitlines(), 1))
    marker, argument = "", ""
    for number, line in lines:
        if opening := FENCE.match(line):
            fence, indent = opening["fence"], len(opening["indent"])
            body = []
            for _, inner in lines:
                if inner.strip().startswith(fence) and not inner.strip().strip(fence[0]):
                    break
                body.append(inner[min(indent, len(inner) - len(inner.lstrip())) :])
            else:
                raise DocError(f"line {number}: the fence is never closed")
            code = "".join(f"{inner}\n" for inner in body)
            yield Block(number, opening["language"], code, marker, argument)
            marker = argument = ""
        elif found := MARKER.search(line):
            marker, argument = found.groups()
            if marker not in ("skip", "file"):
                raise DocError(f"line {number}: no such marker: {marker}")
        elif "<!-- test:" in line:
            raise DocError(
                f"line {number}: a marker is `<!-- test: skip REASON -->` or `file NAME`"
            )
        elif line.strip() and marker:
            raise DocError(f"line {number}: the marker is not followed by a block")


def missing(shown: list[str], printed: str) -> str | None:
    """The first shown line that was not printed in its turn."""
    rest = iter(printed.splitlines())
    for line in shown:
        if line.strip() in ("", "...", "…"):
            continue
        parts = re.split(r"(\.\.\.|…|\d+)", line.strip())
        wild = {"...": ".*", "…": ".*"}
        pattern = "".join(
            r"\d+" if part.isdigit() else wild.get(part, re.escape(part)) for part in parts
        )
        if not any(re.fullmatch(pattern, candidate.strip()) for candidate in rest):
            return line
    return None


def follow(text: str, directory: Path) -> None:
    """Does what a document says, in a directory; raises DocError where it does not hold."""
    port = str(unused_port())
    text = re.sub(rf"\b{PORT}\b", port, text)
    env = {
        **plain_environment(),
        # `twinwire`, `python` and what else was installed are the ones under test.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TWINWIRE_PORT": port,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    for name in ("scripts", "examples"):
        if (ROOT / name).is_dir():
            (directory / name).symlink_to(ROOT / name, target_is_directory=True)

    def in_foreground(argv: list[str], line: int, shown: list[str]) -> None:
        try:
            done = run(
                argv,
                cwd=directory,
                env=env,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                timeout=PATIENCE,
            )
        except TimeoutExpired as error:
            printed = (error.stdout or b"").decode(errors="replace")
            raise DocError(f"line {line}: still running after {PATIENCE} s:\n{printed}") from None
        printed = done.stdout.decode(errors="replace")
        if done.returncode:
            raise DocError(f"line {line}: exit code {done.returncode}:\n{printed}")
        if lost := missing(shown, printed):
            raise DocError(f"line {line}: not printed: {lost}\nbut:\n{printed}")

    def in_background(step: Step, stack: ExitStack) -> None:
        command = step.command.removesuffix("&")
        named = re.search(r"--port[ =](\d+)", command)
        own_port = int(named[1] if named else port)
        server = Command(["bash", "-c", f"exec {command}"], own_port, env=env, cwd=directory)
        server.start()
        stack.callback(server.close)
        deadline = time.monotonic() + PATIENCE
        while True:
            ended = server.process.poll()
            lost = missing(step.shown, server.output)
            if not lost and (not step.serves or answers(own_port, "/ready")):
                return
            if ended is not None or time.monotonic() > deadline:
                why = f"not printed: {lost}" if lost else "does not answer"
                raise DocError(f"line {step.line}: {why} (exit code {ended}):\n{server.output}")
            time.sleep(0.05)

    with ExitStack() as stack:
        for block in blocks(text):
            if block.marker == "skip":
                continue
            if block.marker == "file":
                (directory / block.argument).write_text(block.text)
            elif block.language == "python":
                script = directory / f"line_{block.line}.py"
                script.write_text(block.text)
                in_foreground([sys.executable, "-W", "error", str(script)], block.line, [])
            elif block.language == "console":
                for step in block.steps():
                    if step.in_background:
                        in_background(step, stack)
                    else:
                        in_foreground(["bash", "-c", step.command], step.line, step.shown)
            elif block.language in UNTESTED_SHELLS:
                raise DocError(f"line {block.line}: write ```console, so that it is run")


@pytest.mark.timeout(300)  # a document may hold many commands, each with its own patience
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_holds(document: Path, tmp_path: Path) -> None:
    follow(document.read_text(), tmp_path)


# The test of the test.

FOLLOWED = """
<!-- test: file greet.py -->
```python
def greet(): return "hello\\n"
```

```python
import greet
open("said", "w").write(greet.greet())
```

1. Then:

   ```console
   $ cat said && echo 'seq 42' && echo 'more'
   hello
   seq 1234
   $ echo one \\
       two
   one t...
   ```

<!-- test: skip it cannot work -->
```console
$ false
```

```toml
not = run
```
"""


def test_blocks_are_run_in_order_in_one_directory(tmp_path: Path) -> None:
    follow(FOLLOWED, tmp_path)
    assert (tmp_path / "said").read_text() == "hello\n"


def test_a_background_command_serves_until_the_end_of_the_document(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text("yes")
    python = shlex.quote(sys.executable)
    follow(
        f"""
```console
$ {python} -m http.server --bind 127.0.0.1 8000 &
Serving HTTP on 127.0.0.1 port 8000 ...
```
```python
from urllib.request import urlopen
assert urlopen("http://127.0.0.1:8000/ready").read() == b"yes"
```
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\nimport warnings; warnings.warn('old')\n```", "UserWarning: old"),
        ("text\n\n```console\n$ false\n```", "line 4: exit code 1"),
        ("```console\n$ echo a\nb\n```", "not printed: b"),
        ("```console\n$ echo a; echo b\nb\na\n```", "not printed: a"),
        ("```console\n$ false &\nnever\n```", "not printed: never"),
        ("```console\na\n$ true\n```", "output before the first"),
        ("```bash\ntrue\n```", "write ```console"),
        ("```python\n", "never closed"),
        ("<!-- test: skip -->\n```python\n```", "a marker is"),
        ("<!-- test: sikp it -->\n```python\n```", "no such marker"),
        ("<!-- test: skip it -->\ntext\n```python\n```", "not followed by a block"),
    ],
)
def test_what_does_not_hold_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DocError, match=re.escape(sentence)):
        follow(text, tmp_path)
