"""What a Hub repo holds at one commit, and which of it a model needs.

The hub's own client asks, so that endpoint, token and offline mode mean here what they mean everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the client's HTTP library
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import appliance
from appliance.hub.cache import BadName, check_blob, check_commit, check_file_name, check_repo, check_revision
from appliance.hub.failure import FetchError

# Names in the repo's top folder, as mlx-lm and tokenizers read them; of the sub-folders only those of
# sentence-transformers' modules (1_Pooling/...) and of further chat templates. Pickles match nothing here.
_NEEDED = re.compile(
    r"""(?: [^/]+\.(?:json|jsonl|jinja|txt|tiktoken|model)
        | model[^/]*\.safetensors | adapters[^/]*\.safetensors | adapter_model\.safetensors
        | [0-9]_[A-Za-z]+/[^/]+\.(?:json|safetensors) | additional_chat_templates/[^/]+\.jinja )""",
    re.VERBOSE,
)
_CODE = re.compile(r"[^/]+\.py")
TIMEOUT = 20.0  # seconds for a listing

constants.HF_HUB_DISABLE_TELEMETRY = True  # it asks the hub for more, to describe this machine in a header


@dataclass(frozen=True)
class RemoteFile:
    """etag: the blob's name in the cache, and the hash of its content by `algorithm`."""

    name: str
    size: int
    etag: str
    algorithm: Literal["sha256", "git-sha1"]


@dataclass(frozen=True)
class Listing:
    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def total(self) -> int:
        """Bytes; files with the same content are one blob."""
        return sum({file.etag: file.size for file in self.files}.values())


class Unreachable(Exception):
    """No answer, or one that may be different in a moment. retry_after: seconds, if the hub said."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def ask(repo: str, revision: str | None, *, allow_code: bool = False) -> Listing:
    """The files of `repo` that are wanted. Raises FetchError, or Unreachable where trying again may help."""
    named = revision or "main"
    try:
        check_repo(repo)
        check_revision(named)
    except BadName as error:
        raise FetchError("not_found", str(error)) from error
    try:
        api = HfApi(library_name="lmx", library_version=appliance.__version__)
        info = api.model_info(repo, revision=named, files_metadata=True, timeout=TIMEOUT)
    except OfflineModeIsEnabled as error:
        raise FetchError(
            "offline", f"{repo} is not here and HF_HUB_OFFLINE forbids asking; unset it, or copy the model in"
        ) from error
    except GatedRepoError as error:
        raise FetchError("gated", gated(repo)) from error
    except RevisionNotFoundError as error:
        raise FetchError(
            "revision_not_found", f"{repo} has no revision {named}; take the commit that its page shows"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError("not_found", _not_found(repo)) from error
    except HfHubHTTPError as error:
        raise refused(repo, error.response.status_code, error.response.headers.get("Retry-After")) from error
    except HTTPError as error:
        raise Unreachable(f"cannot reach {constants.ENDPOINT}: {type(error).__name__}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # the library's, of JSON that is none
        said = str(error).partition("\n")[0][:200]
        raise Unreachable(f"{constants.ENDPOINT} answers what is no listing of a repo: {said}") from error
    try:
        files = [
            file
            for sibling in info.siblings or ()
            if (file := _file(sibling.rfilename, sibling.size, sibling.blob_id, sibling.lfs, allow_code))
        ]
        listing = Listing(repo, named, check_commit(info.sha or ""), tuple(files))
    except BadName as error:
        raise FetchError("unsafe", f"the Hub's listing of {repo} was refused: {error}") from error
    _loadable(listing)
    return listing


def _file(name: str, size: int | None, blob: str | None, lfs: object, allow_code: bool) -> RemoteFile | None:
    """One entry of the listing if it is wanted. Raises BadName for one that climbs out, wanted or not."""
    if name.startswith("/") or ".." in name.split("/"):
        check_file_name(name)
    if not (_NEEDED.fullmatch(name) or (allow_code and _CODE.fullmatch(name))):
        return None
    check_file_name(name)
    sha256 = getattr(lfs, "sha256", None)
    if size is None or size < 0 or not (sha256 or blob):
        raise BadName(f"{name} has neither size nor hash")
    if sha256:
        return RemoteFile(name, size, check_blob(sha256), "sha256")
    return RemoteFile(name, size, check_blob(blob or ""), "git-sha1")


def _loadable(listing: Listing) -> None:
    names = {file.name for file in listing.files}
    described = names & {"config.json", "adapter_config.json"}
    if described and any("/" not in n and n.endswith(".safetensors") for n in names):
        return
    lacks = "safetensors weights" if described else "config.json"
    raise FetchError(
        "unsupported",
        f"{listing.repo} has no {lacks}, so LMX cannot load it; choose a repo in MLX or safetensors form",
    )


def gated(repo: str) -> str:
    how = "with the account of your token" if get_token() else "then set HF_TOKEN"
    return f"{repo} is gated: ask for access on {constants.ENDPOINT}/{repo}, {how}, and pull again"


def _not_found(repo: str) -> str:
    if get_token():
        return f"there is no {repo} on the Hub, or your token may not see it; check the name"
    return f"there is no {repo} on the Hub, or it is private; check the name, or set HF_TOKEN"


def refused(repo: str, status: int, retry_after: str | None) -> FetchError | Unreachable:
    """What an HTTP status that is not a success means."""
    if status == 401:
        return FetchError("unauthorized", f"the Hub refuses the token for {repo}; check HF_TOKEN")
    if status == 403:
        return FetchError("gated", gated(repo))
    if status == 404:
        return FetchError("not_found", _not_found(repo))
    return Unreachable(f"the Hub answers HTTP {status}", seconds(retry_after))


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header; its form as a date is left to our own back-off."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
