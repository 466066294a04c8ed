"""Skills: tools of lmx.yaml that LMX itself runs, each in child processes of its own. docs/skills.md

    registry ─▶ skill ─▶ worker ══socket══ host/ (child process: the Python function, or an MCP client)
       ▲
     loop: rounds of generation and calls, behind the interface of one answer

The parent imports neither `mcp` nor any code of a skill; nothing executable crosses the socket.
"""
