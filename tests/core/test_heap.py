from __future__ import annotations

import subprocess
import sys


def test_what_is_loaded_is_left_out_of_collections() -> None:
    code = "import gc\nfrom greenagent.core.heap import settle_heap\nsettle_heap()\nprint(gc.get_freeze_count(), gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    frozen, enabled = done.stdout.split()
    assert int(frozen) > 1000
    assert enabled == "True"
