"""Tell in one line, and soon, that MLflow's registry cannot be reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

# MLflow waits 2, 4, 8, ... seconds between its tries, seven by default: four minutes until a wrong address is told.
NUM_RETRIES = "3"
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# What MLflow says of a server that does not answer or a database that does not open; a refusal has a code of its own.
NO_ANSWER = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}


class RegistryUnreachableError(ValueError):
    """The registry does not answer."""

    exit_code = 1


@contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Raise RegistryUnreachableError when the registry at `uri` does not answer inside the block; the user's number of retries counts."""
    is_ours = RETRIES_VARIABLE not in os.environ
    if is_ours:
        os.environ[RETRIES_VARIABLE] = NUM_RETRIES
    try:
        yield
    except MlflowException as error:
        if error.error_code not in NO_ANSWER:
            raise
        raise _unreachable(uri, error.message) from error
    except (RequestException, SQLAlchemyError) as error:
        raise _unreachable(uri, str(error)) from error
    finally:
        if is_ours:
            os.environ.pop(RETRIES_VARIABLE, None)


def _unreachable(uri: str, message: str) -> RegistryUnreachableError:
    first_line = message.strip().partition("\n")[0]
    return RegistryUnreachableError(f"the MLflow registry at {uri} does not answer: {first_line[:200]}")
