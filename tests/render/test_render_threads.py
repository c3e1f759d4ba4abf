from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from render_scenes import as_float32, random_scene

from zero1toa.render.rasterize import rasterize
from zero1toa.render.threads import get_threads, run_parallel, set_threads


@pytest.mark.parametrize("items", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_once(items, threads):
    set_threads(threads)
    hits = np.zeros(items, int)

    def kernel(start, stop):
        hits[start:stop] += 1

    run_parallel(kernel, items)
    assert (hits == 1).all()


def test_errors_of_other_threads_arrive():
    set_threads(2)
    meeting = threading.Barrier(2, timeout=20)

    def kernel(start, stop):
        meeting.wait()
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("from the pool")

    with pytest.raises(RuntimeError, match="from the pool"):
        run_parallel(kernel, 2, pieces=1)


def test_number_of_threads():
    set_threads(3)
    assert get_threads() == 3
    set_threads(0)
    assert get_threads() >= 1
    with pytest.raises(ValueError, match="got -1"):
        set_threads(-1)


def test_several_threads_may_draw_at_once(generator):
    scene = as_float32(random_scene(generator, 300, 48))
    expected, _, _ = rasterize(**scene, width=48, height=48)
    found = []

    def work():
        found.extend(rasterize(**scene, width=48, height=48)[0] for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 15
    assert all(torch.equal(picture, expected) for picture in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_draw():
    code = """
import os, torch
from zero1toa.render.threads import run_parallel, set_threads
set_threads(2)
seen = []
run_parallel(lambda start, stop: seen.append(stop - start), 8)
child = os.fork()
if child == 0:
    counted = []
    run_parallel(lambda start, stop: counted.append(stop - start), 8)
    os._exit(0 if sum(counted) == 8 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_cache_folder_when_nothing_else_can_be_written(tmp_path, monkeypatch):
    from zero1toa.render.kernels import jit

    monkeypatch.setattr(jit.config, "CACHE_DIR", "")
    monkeypatch.setattr(jit, "_writable", lambda folder: False)
    monkeypatch.setattr(jit.tempfile, "gettempdir", lambda: str(tmp_path))
    jit.choose_cache()
    assert jit.config.CACHE_DIR.startswith(str(tmp_path))
    assert os.stat(jit.config.CACHE_DIR).st_mode & 0o077 == 0
