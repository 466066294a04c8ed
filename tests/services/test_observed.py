"""What the managers say, from outputs as their commands print them."""

from __future__ import annotations

from appliance.services import observed

# In the form that public bug reports show of several releases of macOS; not recorded on a machine of ours.
RUNNING = """\
system/lmx.appliance = {
\tactive count = 1
\tpath = /Library/LaunchDaemons/lmx.appliance.plist
\ttype = LaunchDaemon
\tstate = running

\tprogram = /opt/lmx/bin/python
\targuments = {
\t\t/opt/lmx/bin/python
\t\tstate = misleading
\t}

\tdefault environment = {
\t\tPATH => /usr/bin:/bin:/usr/sbin:/sbin
\t}

\tdomain = system
\tminimum runtime = 10
\texit timeout = 90
\truns = 3
\tpid = 24784
\timmediate reason = non-ipc demand
\tlast terminating signal = Killed: 9
\tlast exit code = (never exited)

\tresource coalition = {
\t\tID = 814
\t\tstate = active
\t}
}
"""
DOWN = RUNNING.replace("state = running", "state = not running").replace("\tpid = 24784\n", "")
OLDER = """\
dev.mysql = {
    active count = 1
    state = running
    runs = 2
    pid = 24784
    last exit code = 1
}
"""


def test_a_job_that_runs() -> None:
    assert observed.launchctl(RUNNING) == observed.Seen("running", 24784, 3, None, "Killed: 9")


def test_a_job_that_does_not() -> None:
    text = DOWN.replace("(never exited)", "78: EX_CONFIG")
    assert observed.launchctl(text) == observed.Seen("not running", None, 3, 78, "Killed: 9")


def test_an_older_form() -> None:
    assert observed.launchctl(OLDER) == observed.Seen("running", 24784, 2, 1)


def test_a_form_that_nobody_knows_says_so() -> None:
    assert observed.launchctl("{}") == observed.Seen("unknown")


def test_systemd() -> None:
    text = (
        "ActiveState=active\nSubState=running\nMainPID=812\nNRestarts=1\nExecMainStatus=0\nResult=success\n"
    )
    assert observed.systemctl(text) == observed.Seen("active (running)", 812, 1)
    text = "ActiveState=failed\nSubState=failed\nMainPID=0\nNRestarts=5\nExecMainStatus=1\nResult=exit-code\n"
    assert observed.systemctl(text) == observed.Seen("failed (failed)", None, 5, 1, "exit-code")
