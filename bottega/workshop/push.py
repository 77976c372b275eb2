"""A folder to a repository of a model hub: Hugging Face, or whatever HF_ENDPOINT names.

Left out: logging in (`hf auth login`, or HF_TOKEN in the environment); no token is taken as an option or written down.
"""

from __future__ import annotations

import re
from pathlib import Path

from bottega.core.errors import UserError
from bottega.models.locate import is_offline

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check(repository: str) -> None:
    """Before any work: is the name one, and may a connection be opened?

    Raises:
        UserError: no, and why.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is no repository; write OWNER/NAME")
    if is_offline():
        raise UserError(f"offline is set: nothing is pushed to {repository}; leave --push out, or unset HF_HUB_OFFLINE")


def push(
    folder: str | Path, repository: str, *, private: bool = True, endpoint: str | None = None, token: str | None = None
) -> str:
    """Make the repository if it is not there and upload the folder in one commit; returns its address.

    Args:
        endpoint, token: of another hub than HF_ENDPOINT names, and for another account than the environment's.

    Raises:
        UserError: the hub cannot be reached or refuses; the folder stays where it is.
    """
    check(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        done = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message="Upload by bottega export",
            ignore_patterns=["MANIFEST.json"],
        )
    except (HTTPError, OSError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{folder} is complete but was not pushed to {repository}: {said}; check the token and the name"
        ) from None
    return str(done.commit_url)
