"""The refusals of a Qdrant server: one exception per kind, with the status and the words that the real server uses."""

from __future__ import annotations


class ServiceError(Exception):
    """A request that the server refuses. `status` is the HTTP status, `text` what stands in `status.error`."""

    status = 500
    prefix = "Service internal error: "

    plain = False
    headers: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.text = self.prefix + text
        if status is not None:
            self.status = status


class WrongInput(ServiceError):
    """400: the request is understood and wrong."""

    status = 400
    prefix = "Wrong input: "


class BadRequest(ServiceError):
    """400: the request asks for nothing that could be done."""

    status = 400
    prefix = "Bad request: "


class FormatError(ServiceError):
    """400: the JSON body is not what the endpoint takes."""

    status = 400
    prefix = "Format error in JSON body: "


class BodyError(FormatError):
    """400: a format error that the real server places at the end of the body; the front adds the place."""

    def placed(self, raw: bytes) -> FormatError:
        """The same refusal with the place, which is counted as the real server's JSON reader counts."""
        line = raw.count(b"\n") + 1
        column = len(raw) - (raw.rfind(b"\n") + 1)
        return FormatError(f"{self} at line {line} column {column}")


class ValidationError(ServiceError):
    """422: the JSON body has the right shape and a value out of range."""

    status = 422
    prefix = "Validation error in JSON body: "


class BadQuery(ServiceError):
    """400: a parameter of the query string is not what the endpoint takes."""

    status = 400
    prefix = "Deserialize error in query parameters: "


class BadName(ServiceError):
    """422: a collection cannot be called that."""

    status = 422
    prefix = "Validation error in path parameters: "

    def __init__(self, name: str) -> None:
        signs = [sign for sign in '<>:"/\\|?*\0\x1f' if sign in name]
        text = f'collection name cannot contain "{signs[0]}" char' if signs else "value must be of length 1 to 255"
        super().__init__(f"[collection_name: {text}]")


class ChecksumMismatch(ServiceError):
    """400: an uploaded file is not the one that was announced."""

    status = 400
    prefix = "Checksum mismatch: "


class NotFound(ServiceError):
    """404: no such collection, point or snapshot."""

    status = 404
    prefix = "Not found: "


class AlreadyExists(ServiceError):
    """409: the collection is there already."""

    status = 409
    prefix = "Wrong input: "


class Forbidden(ServiceError):
    """403: the key does not allow it."""

    status = 403
    prefix = "Forbidden: "


class TooLarge(ServiceError):
    """400 (not 413, so the real server): the JSON body is larger than it takes, 32 MB unless configured."""

    status = 400
    prefix = ""


class Internal(ServiceError):
    """500: something inside or beyond the server failed."""


def from_engine(error: BaseException) -> ServiceError:
    """What the real server answers when its engine refuses with `error` (the engine's own words are the same)."""
    text = str(error)
    if text.startswith("No point with id"):
        return NotFound(f"{text} found" if not text.endswith("found") else text)
    if isinstance(error, (TypeError, ValueError, OverflowError)) or any(
        words in text for words in ("Vector dimension error", "Not existing vector name", "Wrong", "Bad request")
    ):
        return WrongInput(text)
    if "No appropriate index" in text or "No range index" in text:
        return WrongInput(text)
    if "Index required" in text:
        return BadRequest(text)
    return Internal(text)
