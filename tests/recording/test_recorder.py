"""Recordings replay to the same decisions, stay within their bounds and never get in the loop's way."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.recording import Recorder, RecordingError
from reconciler.names import HEAT
from reconciler.readings import LEVELS, EngineReading, Reading, Service
from reconciler.replay import replay
from reconciler.spec import Spec
from reconciler.trace import Record, load

MIB = 2**20
SPEC = Spec.model_validate(
    {"version": 1, "active": "chat", "models": {"chat": {"source": "builtin:lmx-demo"}}}
)
FIRST = Reading(1.0, 1000 * MIB, 500 * MIB)


def read(path: Path) -> list[Record]:
    return list(load(path.read_bytes(), path.name).records)


def test_each_reading_is_a_line_and_is_there_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "trace.jsonl")
    recorder(FIRST, {})
    assert read(tmp_path / "trace.jsonl") == [Record(FIRST)]
    services = {"chat": Service(1.5, requests=3)}
    recorder(FIRST, services)
    recorder(FIRST, dict(services))  # nothing new
    assert read(tmp_path / "trace.jsonl") == [Record(FIRST), Record(FIRST, services)]
    recorder.close()
    recorder(FIRST, {})
    assert len(read(tmp_path / "trace.jsonl")) == 2


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 30.0),
            st.integers(0, 1200),
            st.sampled_from(LEVELS),
            st.sampled_from((None, *HEAT)),
            st.booleans(),
            st.floats(0.1, 10.0),
            st.integers(0, 60),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_a_recording_replays_to_the_same_decisions(
    tmp_path: Path, looks: list[tuple[float, int, str, str | None, bool, float, int]]
) -> None:
    """Also where the recorder left a look out because it brought nothing new."""
    now, lived = 0.3, []
    path = next(p for n in range(10_000) if not (p := tmp_path / f"t{n}.jsonl").exists())
    recorder = Recorder(path)
    for pause, used, system, heat, active, ttft, requests in looks:
        now += pause
        engines = (EngineReading("e1", "chat", used * MIB, 400 * MIB, active=active),)
        reading = Reading(now, 1000 * MIB, used * MIB, system=system, heat=heat, engines=engines)  # type: ignore[arg-type]
        service = Service(now, "e1", requests=requests, ttft_p95_s=ttft, pace_s=1.0, rows=2)
        for _ in range(2):
            recorder(reading, {"chat": service})
            lived.append(Record(reading, {"chat": service}))
    recorder.close()
    assert replay(read(path), SPEC) == replay(lived, SPEC)


def test_an_earlier_recording_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "trace.jsonl").write_text("precious\n")
    (tmp_path / "trace-2.jsonl").mkdir()
    recorder = Recorder(tmp_path / "trace.jsonl")
    recorder(FIRST, {})
    recorder.close()
    assert (tmp_path / "trace.jsonl").read_text() == "precious\n"
    assert read(tmp_path / "trace-3.jsonl") == [Record(FIRST)]
    assert "trace-3.jsonl" in caplog.text


def test_a_recording_is_bounded_and_says_where_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "trace.jsonl", MIB)
    for number in range(20_000):
        recorder(Reading(float(number), 1000 * MIB, 500 * MIB, system_why="x" * 40), {})
    assert MIB - 200 < (tmp_path / "trace.jsonl").stat().st_size <= MIB
    assert [entry.message for entry in caplog.records if entry.levelno == logging.WARNING] == [
        f"the recording in {tmp_path / 'trace.jsonl'} ends here: it has reached 1 MiB"
    ]
    assert len(read(tmp_path / "trace.jsonl")) > 5000


def test_a_figure_that_is_no_number_ends_the_recording_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "trace.jsonl")
    recorder(FIRST, {})
    recorder(Reading(float("nan"), 1, 1), {})
    recorder(Reading(2.0, 1, 1), {})
    assert read(tmp_path / "trace.jsonl") == [Record(FIRST)]
    assert "ends here" in caplog.text


def test_a_full_disk_ends_the_recording_after_a_whole_line(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel takes a part, then refuses."""
    program = """
import resource
from pathlib import Path
from appliance.recording import Recorder, RecordingError
from reconciler.readings import Reading
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
recorder = Recorder(Path("trace.jsonl"))
for number in range(100):
    recorder(Reading(float(number), 1000, 500), {})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stderr == "the recording in trace.jsonl ends here: [Errno 27] File too large\n"
    text = (tmp_path / "trace.jsonl").read_text()
    assert text.endswith("}\n")
    assert len(read(tmp_path / "trace.jsonl")) == text.count("\n") > 20


def test_a_place_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"trace\.jsonl cannot be recorded to: No such file"):
        Recorder(tmp_path / "nowhere" / "trace.jsonl")
    with pytest.raises(RecordingError, match="is a folder; name a file to record to"):
        Recorder(tmp_path)
