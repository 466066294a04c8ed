"""`lmx status`: what people and programs read of an appliance."""

from __future__ import annotations

import json
import re

from tests.cli.standin import Appliance, Lmx, Reply, status_document


def test_a_page_for_people(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("status")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "studio-01  Ready  generation 3, up 3h12m, LMX 0.1.0"
    assert "active   demo" in lines
    assert "memory   2.0 GiB of 8.0 GiB (25%)  normal" in lines
    assert "traffic  3 running, 1 queued, 412 tokens/s, first token 80 ms p50, 211 ms p95" in lines
    assert re.search(r"^demo +ready +8192 of 131072 +8 +2.0 GiB", result.out, re.MULTILINE)
    assert re.search(
        r"^demo-mini +loading 25% +- +8 +~953.7 MiB|^demo-mini +loading 25% +- +8 +~954 MiB",
        result.out,
        re.MULTILINE,
    )
    assert "CONDITION" not in result.out


def test_what_is_wrong_is_told_with_its_reason(lmx: Lmx, appliance: Appliance) -> None:
    document = status_document(
        summary="Stalled",
        active={"desired": "daily", "actual": "demo"},
        conditions={
            "Synced": ("False", "LoadFailed", "models.daily: no weights"),
            "Stalled": ("True", "LoadFailed", "models.daily: no weights"),
        },
        plan=[
            {
                "action": "load",
                "model": "daily",
                "reason": "active names it",
                "field": "active",
                "state": "next",
            }
        ],
    )
    appliance.on("GET /status", document)
    out = lmx("status").out
    assert "active   demo  (wanted: daily)" in out
    assert re.search(
        r"^Synced +False +LoadFailed +\d+d(\d+h)? ago +models.daily: no weights", out, re.MULTILINE
    )
    assert re.search(r"^load +daily +active +active names it", out, re.MULTILINE)
    assert "MemoryPressure" not in out


def test_skills_are_told_with_what_is_wrong(lmx: Lmx, appliance: Appliance) -> None:
    skills = {
        "forecast": {"state": "ready", "reason": "", "tools": ["forecast"], "calls": {"ok": 3, "refused": 1}},
        "wiki": {"state": "failed", "reason": "HTTP 401", "tools": [], "left_out": {"a b": "its name"}},
    }
    appliance.on("GET /status", {**status_document(), "skills": skills})
    out = lmx("status").out
    assert re.search(r"^forecast +ready +1 +4, 1 not ok$", out, re.MULTILINE)
    assert re.search(r"^wiki +failed +0 +0 +HTTP 401; a b is left out: its name$", out, re.MULTILINE)


def test_json_is_the_document_as_it_is(lmx: Lmx, appliance: Appliance) -> None:
    assert json.loads(lmx("status", "-o", "json").out) == status_document()


def test_an_empty_appliance_is_no_crash(lmx: Lmx, appliance: Appliance) -> None:
    bare = {
        "summary": "NotReady",
        "name": "x",
        "generation": 0,
        "conditions": [],
        "active": {"desired": None, "actual": None},
    }
    appliance.on("GET /status", bare)
    result = lmx("status")
    assert result.code == 0
    assert "NotReady" in result.out


def test_a_terminal_gets_colour_and_symbols_and_a_pipe_does_not(lmx: Lmx, appliance: Appliance) -> None:
    shown = lmx.terminal("status").out
    assert "●" in shown
    assert "\x1b[" in shown
    piped = lmx("status").out
    assert "●" not in piped
    assert "\x1b" not in piped


def test_no_color_is_honoured_on_a_terminal(lmx: Lmx, appliance: Appliance) -> None:
    shown = lmx.terminal("status", env={"NO_COLOR": "1"}).out
    assert "●" in shown
    assert not re.search(r"\x1b\[(\d+;)*3\d", shown)


def test_watching_in_a_pipe_prints_again_only_what_changed(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(), status_document(), status_document(summary="Degraded"))
    process = lmx.start("status", "-w")
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        if line.startswith("studio-01"):
            seen.append(line.split()[1])
        if "Degraded" in seen:
            break
    process.terminate()
    process.communicate(timeout=60)
    assert seen == ["Ready", "Degraded"]


def test_watching_as_json_is_one_document_a_line(lmx: Lmx, appliance: Appliance) -> None:
    process = lmx.start("status", "-w", "-o", "json")
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["summary"] for _ in range(2)] == ["Ready", "Ready"]
    process.terminate()
    process.communicate(timeout=60)


def test_nothing_running_says_how_to_start(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").write_text(
        "version: 1\nactive: null\nmodels: {}\nserver: {host: 127.0.0.1, port: 9}\n"
    )
    result = lmx("status")
    assert result.code == 1
    assert result.err == (
        "lmx: no appliance answers at http://127.0.0.1:9. Start it with `lmx up`, "
        "or name another with --url.\n"
    )


def test_without_a_file_the_address_must_be_said(lmx: Lmx) -> None:
    result = lmx("status")
    assert result.code == 1
    assert "--url" in result.err


def test_the_url_may_be_given_without_scheme_and_needs_no_file(lmx: Lmx, appliance: Appliance) -> None:
    (lmx.folder / "lmx.yaml").unlink()
    assert lmx("status", "--url", appliance.url.removeprefix("http://") + "/").code == 0


def test_a_file_with_an_error_still_finds_the_appliance_and_says_so(lmx: Lmx, appliance: Appliance) -> None:
    file = lmx.folder / "lmx.yaml"
    file.write_text(file.read_text() + "quue: {}\n")
    result = lmx("status")
    assert result.code == 0
    assert "studio-01" in result.out
    assert "quue" in result.err
    assert appliance.url in result.err


def test_an_answer_that_is_not_lmx_is_named(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", Reply(b"<html>"))
    result = lmx("status")
    assert result.code == 1
    assert "Is it LMX?" in result.err


def test_an_error_of_the_appliance_comes_in_its_own_words(lmx: Lmx, appliance: Appliance) -> None:
    error = {"error": {"message": "a key is needed.", "type": "authentication_error", "code": "unauthorized"}}
    appliance.on("GET /status", Reply(error, 401))
    result = lmx("status")
    assert result.code == 1
    words = "Put a key into LMX_API_KEY, or its file's name into LMX_API_KEY_FILE."
    assert result.err == f"lmx: a key is needed. {words} (unauthorized)\n"


def test_a_key_in_the_environment_is_sent(lmx: Lmx, appliance: Appliance) -> None:
    lmx("status", env={"LMX_API_KEY": "k1"})
    assert appliance.asked[-1][2]["authorization"] == "Bearer k1"
    (lmx.folder / "key").write_text("k2\n")
    lmx("status", env={"LMX_API_KEY_FILE": str(lmx.folder / "key")})
    assert appliance.asked[-1][2]["authorization"] == "Bearer k2"
    wrong = lmx("status", env={"LMX_API_KEY_FILE": "nowhere"})
    assert (wrong.code, "LMX_API_KEY_FILE: nowhere cannot be read" in wrong.err) == (1, True)


def test_on_the_machine_itself_a_key_of_its_own_file_is_taken(lmx: Lmx, appliance: Appliance) -> None:
    """One that may change things first; and none where another address was asked for."""
    keys = lmx.folder / "keys"
    keys.write_text(
        f"a: {{sha256: {'0' * 64}, admin: true}}\nb: {{key: sk-plain-0123456789}}\n"
        "c: {key: sk-admin-0123456789, admin: true}\n"
    )
    keys.chmod(0o600)
    file = lmx.folder / "lmx.yaml"
    written = file.read_text()
    file.write_text(re.sub(r"server: *\{", "server: {api_keys: {file: keys}, ", written))
    assert file.read_text() != written
    lmx("status")
    assert appliance.asked[-1][2]["authorization"] == "Bearer sk-admin-0123456789"
    lmx("status", env={"LMX_API_KEY": "mine"})
    assert appliance.asked[-1][2]["authorization"] == "Bearer mine"
    lmx("status", "--url", appliance.url)
    assert "authorization" not in appliance.asked[-1][2]
