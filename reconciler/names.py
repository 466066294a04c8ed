"""Names that point at something: models, sources, hosts. What they look like, and what to write instead."""

from __future__ import annotations

import ipaddress
import re

from reconciler.kinds import Text

LADDER = ("drop_caches", "page_idle", "throttle", "lower_concurrency", "lower_context", "shed", "unload")
HEAT = ("nominal", "moderate", "heavy", "trapping", "sleeping")  # macOS's own words, coolest first
# mlx-lm's parsers of tool calls, and llama3 for bare JSON: as `appliance.engine.answer.formats` has them.
TOOL_PARSERS = (
    *("function_gemma", "gemma4", "glm47", "json_tools", "kimi_k2", "kimi_k3", "laguna", "llama3", "longcat"),
    *("minicpm5", "minimax_m2", "mistral", "muse_spark", "pythonic", "qwen3_coder"),
)
GIT_RIGHTS = ("skills", "trust_remote_code", "local_paths", "key_files")
RESERVED = "default"  # requests use it for whatever is active

_KEY = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_ALIAS = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,126}$"
_REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
_LOCAL = r"^(?:\./|\.\./|/|~/|\.$|\.\.$|~$)"
_BUILTIN = r"^builtin:[A-Za-z0-9][A-Za-z0-9._-]*$"
_HUB = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
_GGUF_IN_HUB = r"^[^/]+/[^/]+/.+\.gguf$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
_ORIGIN = r"^[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?$"
_TOOL = r"^[A-Za-z0-9_-]{1,64}$"
_CALLABLE = r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
_LABEL = re.compile(r"^(?!-)[A-Za-z0-9_-]{1,63}(?<!-)$")


def _key(text: str) -> str | None:
    if text == RESERVED:
        return f"{RESERVED!r} is what requests call the active model; choose another name"
    return None if re.fullmatch(_KEY, text) else "use letters, digits, '.', '_' and '-', at most 63"


def _alias(text: str) -> str | None:
    if text == RESERVED:
        return f"{RESERVED!r} always means the active model; remove it"
    return None if re.fullmatch(_ALIAS, text) else "use letters, digits and . _ - : / @ +, at most 127"


def _revision(text: str) -> str | None:
    return None if re.fullmatch(_REVISION, text) else "use the commit that the model's page on the Hub shows"


def _source(text: str) -> str | None:
    if re.match(_LOCAL, text) or any(re.fullmatch(form, text) for form in (_BUILTIN, _HUB, _GGUF_IN_HUB)):
        return None
    if text.startswith("builtin:"):
        return "a name follows builtin:, like builtin:lmx-demo"
    return (
        f"for a folder write ./{text}; for the Hub write org/name"
        if "://" not in text
        else "write org/name, not a URL"
    )


def _host(text: str) -> str | None:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        labels = text.rstrip(".").split(".")
        dotted_number = labels[-1].isdecimal()
        if len(text) <= 253 and not dotted_number and all(_LABEL.fullmatch(label) for label in labels):
            return None
        return (
            "the port goes to server.port"
            if re.search(r":[0-9]+$", text)
            else "write an IP address or a host name"
        )
    return None


def _git_url(text: str) -> str | None:
    if text.startswith(("-", ".")) or re.search(r"[\s\x00-\x1f]|::", text):
        return "write a whole address"
    if re.fullmatch(r"(?:https?|ssh|git)://[^/-][^/]*/.+|file:///.+", text):
        return None
    host = r"[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*"
    # Without a name in front, host:/path is more likely a scheme that lost its second slash.
    if re.fullmatch(rf"[A-Za-z0-9._-]+@{host}:[^:-].*|{host}:[^:/-].*", text):
        return None
    if text.startswith("/"):
        return f"write file://{text}"
    return "write a whole address, like https://git.example/fleet.git or git@git.example:fleet.git"


def _git_ref(text: str) -> str | None:
    """By the rules of git-check-ref-format."""
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|/\.|\.$|/$", text)
    return "write the name of a branch or tag, or a whole commit" if bad or text[:1] in "-/.@" else None


def _git_path(text: str) -> str | None:
    parts = text.split("/")
    if text.startswith("/") or any(part in ("", ".", "..", ".git") for part in parts) or "\0" in text:
        return "write the path from the root of the repository, like hosts/studio-01.yaml"
    return None


def _web(text: str) -> str | None:
    return None if re.fullmatch(r"https?://[^\s/]\S*", text) else "it starts with http:// or https://"


def _origin(text: str) -> str | None:
    if text in ("*", "null"):
        return "name each origin: with this one any page on the web could call"
    if re.fullmatch(_ORIGIN, text):
        return None
    if re.fullmatch(_ORIGIN, text.lower().rstrip("/")):
        return f"browsers send it as {text.lower().rstrip('/')}"
    return "write scheme://host, with :port where there is one, and nothing behind it"


def holds_password(url: str) -> bool:
    """Whether an address carries a name or password, where everybody can read it."""
    return re.match(r"https?://[^\s/?#]*@", url) is not None


def without_user(url: str) -> str:
    """A repository's address as it may be shown: without the name or password in it."""
    return re.sub(r"^(\w+://)[^/@]*@|^[^/@:]*@(?=[^/]*:)", r"\1", url)


def _variable(text: str) -> str | None:
    return (
        None if re.fullmatch(_VARIABLE, text) else "write its name alone; the value stays outside this file"
    )


def _tool(text: str) -> str | None:
    return None if is_skill(text) else "use letters, digits, '_' and '-', at most 64"


def _callable(text: str) -> str | None:
    if re.fullmatch(_CALLABLE, text):
        return None
    return "write module:function, without .py"


def is_skill(name: str) -> bool:
    """Whether models can call it by that name: OpenAI's rule for names of functions."""
    return re.fullmatch(_TOOL, name) is not None


KEY = Text("a model's name", "daily", _key, pattern=_KEY, most=63)
ALIAS = Text("a name", "qwen3-30b", _alias, pattern=_ALIAS, most=127)
SOURCE = Text("a Hub repo, a local folder or builtin:NAME", "mlx-community/Qwen3-4B-4bit", _source)
REVISION = Text("a commit", "1f2e3d4", _revision, pattern=_REVISION, most=128)
HOST = Text("an address", "127.0.0.1", _host, most=253)
GIT_URL = Text("an address", "https://git.example/fleet.git", _git_url)
GIT_REF = Text("a branch, tag or commit", "main", _git_ref, most=244)
GIT_PATH = Text("a path in the repository", "hosts/studio-01.yaml", _git_path)
VARIABLE = Text("the name of an environment variable", "WEATHER_KEY", _variable, pattern=_VARIABLE, most=128)
ORIGIN = Text("an origin", "https://chat.example", _origin, pattern=_ORIGIN, most=512)
TOOL = Text("a tool's name", "read_file", _tool, pattern=_TOOL, most=64)
CALLABLE = Text("module:function", "tools:get_weather", _callable, pattern=_CALLABLE)
WEB = Text("an address", "http://127.0.0.1:8000/mcp", _web)


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit hash, full or short, and so cannot move."""
    return re.fullmatch(r"[0-9a-f]{7,40}", revision) is not None


def is_local(source: str) -> bool:
    return re.match(_LOCAL, source) is not None


def is_builtin(source: str) -> bool:
    return re.fullmatch(_BUILTIN, source) is not None


def is_hub(source: str) -> bool:
    return not is_local(source) and not is_builtin(source)


def is_gguf(source: str) -> bool:
    return source.endswith(".gguf")
