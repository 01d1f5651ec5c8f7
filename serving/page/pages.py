"""Pages from templates, in the visitor's language, and errors as pages or as JSON."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from ladnn_tf.card import Card
from serving.page.errors import PREFIX, PageError
from serving.page.settings import Settings
from serving.page.words import LANGUAGES, Words, choose_language

TEMPLATES = Path(__file__).parent / "templates"

LANGUAGE_COOKIE = "ladnn_language"

_YEAR = 365 * 24 * 3600  # seconds
_HTML, _JSON = "text/html", "application/json"


class Pages:
    """Makes pages.

    Args:
        settings: of the page; the templates show its limits.
        collecting: whether there is a data collection.
        card: gives the card of the model that answered last.
    """

    def __init__(self, settings: Settings, collecting: bool, card: Callable[[], Card | None]) -> None:
        self._settings = settings
        self._collecting = collecting
        self._card = card
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def words(self, request: Request) -> Words:
        """The texts in the visitor's language."""
        return choose_language(
            request.query_params.get("lang"),
            request.cookies.get(LANGUAGE_COOKIE),
            request.headers.get("accept-language"),
        )

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> Response:
        """A page from a template; a language that the address asks for is remembered by a cookie.

        Args:
            request: that it answers.
            template: name of the file.
            status: of HTTP.
            headers: of the response.
            context: of the template, beside what all of them have.
        """
        words = self.words(request)
        caller = request.state.caller
        common = {
            "request": request,
            "words": words,
            "language": words.language,
            "card": self._card(),
            "logged_in": caller is not None and caller.session,
            "collecting": self._collecting,
            "limits": self._settings,
            "status": status,
        }
        text = self._templates.get_template(template).render(common | context)
        response = HTMLResponse(text, status, headers)
        asked = request.query_params.get("lang")
        if asked in LANGUAGES:
            secure = caller is not None and caller.scheme == "https"
            response.set_cookie(
                LANGUAGE_COOKIE, asked, max_age=_YEAR, secure=secure, httponly=True, samesite="lax"
            )
        return response

    def error(self, request: Request, error: PageError) -> Response:
        """An error as a page, or as JSON for whoever prefers it; whoever must log in first is sent there."""
        message = self.words(request)(PREFIX + error.key, **error.values)
        if prefers_json(request):
            content = {"error": {"status": error.status, "code": error.key, "message": message}}
            return JSONResponse(content, error.status, error.headers)
        # Prometheus would take the form for its figures.
        if error.key == "login" and request.method in ("GET", "HEAD") and request.url.path != "/metrics":
            return RedirectResponse("/login", 303)
        return self.page(request, "error.html", status=error.status, headers=error.headers, message=message)


def prefers_json(request: Request) -> bool:
    """Whether a client would rather have JSON than HTML (RFC 9110, 12.5.1)."""
    weights = {_HTML: 0.0, _JSON: 0.0}
    for part in request.headers.get("accept", "").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return weights[_JSON] > weights[_HTML]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
