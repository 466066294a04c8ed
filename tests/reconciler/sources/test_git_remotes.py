"""Repositories elsewhere: over HTTPS with a password, and over ssh. What a user's git can reach, LMX can."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gitops.follower import GOOD, Follower
from tests.gitops.https import PASSWORD, USER, Https
from tests.gitops.remote import Remote, needs_git

pytestmark = [pytest.mark.anyio, needs_git]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, without any settings."""
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    for name in ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME", "GIT_ASKPASS", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def served(tmp_path: Path, remote: Remote) -> Iterator[Https]:
    made = Https(remote, tmp_path / "https")
    yield made
    made.close()


def netrc(home: Path, password: str) -> None:
    file = home / ".netrc"
    file.write_text(f"machine 127.0.0.1 login {USER} password {password}\n")
    file.chmod(0o600)


def everything(follower: Follower) -> str:
    """All that was told and written down."""
    files = [path for path in (follower.folder / "state").rglob("*") if path.is_file()]
    written = b"\n".join(path.read_bytes() for path in files).decode("latin-1")
    return f"{follower.events}\n{follower.source.view()}\n{written}"


async def test_https_with_the_password_that_the_users_git_knows(
    tmp_path: Path, remote: Remote, served: Https, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(served.authority))
    netrc(home, PASSWORD)
    follower = Follower(tmp_path, remote, url=served.url)
    assert (await follower.look()).revision == remote.head()
    assert follower.name() == "first"
    newest = remote.put(GOOD + "name: second\n")
    assert (await follower.look()).revision == newest
    assert follower.name() == "second"
    assert PASSWORD not in everything(follower)


@pytest.mark.parametrize("password", [None, "not-it"])
async def test_https_without_the_right_password_asks_nobody_and_says_so(
    tmp_path: Path,
    remote: Remote,
    served: Https,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str | None,
) -> None:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(served.authority))
    if password is not None:
        netrc(home, password)
    follower = Follower(tmp_path, remote, url=served.url)
    failed = (await follower.look()).failed
    assert failed is not None
    assert failed.reason == "GitUnauthorized"
    assert "https://127.0.0.1" in failed.message
    assert "~/.netrc" in failed.message
    assert "not-it" not in everything(follower)
    netrc(home, PASSWORD)
    assert (await follower.look()).revision == remote.head()


async def test_https_with_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, remote: Remote, served: Https, home: Path
) -> None:
    netrc(home, PASSWORD)
    follower = Follower(tmp_path, remote, url=served.url)
    view = await follower.look()
    assert view.failed is not None
    assert view.failed.reason == "GitUntrusted"
    assert "GIT_SSL_CAINFO" in view.failed.message
    assert view.revision is None


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("git@fleet.example: Permission denied (publickey).", "GitUnauthorized"),
        ("Host key verification failed.", "GitUntrusted"),
        ("ssh: connect to host fleet.example port 22: Connection refused", "GitUnreachable"),
    ],
)
async def test_what_ssh_refuses_has_a_reason(
    tmp_path: Path, remote: Remote, home: Path, monkeypatch: pytest.MonkeyPatch, says: str, reason: str
) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'echo \"{says}\" >&2; exit 255'")
    failed = (await Follower(tmp_path, remote, url="git@fleet.example:fleet.git").look()).failed
    assert failed is not None
    assert failed.reason == reason


@pytest.mark.parametrize("url", ["ssh://git@fleet.example{path}", "git@fleet.example:{path}"])
async def test_ssh_is_the_users_own(
    tmp_path: Path, remote: Remote, home: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """A stand-in for ssh: it notes the host it was to reach, and runs the command here."""
    noted, ssh = tmp_path / "hosts", tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nwhile [ $# -gt 1 ]; do echo "$1" >> {noted}; shift; done\nexec sh -c "$1"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    follower = Follower(tmp_path, remote, url=url.format(path=remote.bare))
    assert (await follower.look()).revision == remote.head()
    newest = remote.put(GOOD + "name: second\n")
    assert (await follower.look()).revision == newest
    assert "git@fleet.example" in noted.read_text().splitlines()
