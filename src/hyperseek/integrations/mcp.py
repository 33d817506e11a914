"""MCP: an index as tools of an assistant, over standard input and output or HTTP.

The tools `search` and `fetch` have the form that assistants expect of a source that they research in: one text each,
and results of `id`, `title` and `url`, whose documents are fetched by id. `similar` and `explain` are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from hyperseek._version import __version__
from hyperseek.errors import HyperseekError, InputError, MissingDocumentError, require, shown
from hyperseek.integrations import opened
from hyperseek.serve.keys import Keys, keys_of_environment

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.types import ToolAnnotations
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError:
    require("mcp.server.mcpserver", extra="mcp")
    raise

if TYPE_CHECKING:
    from hyperseek.integrations import IndexLike
    from hyperseek.types import Document, Hit

P = ParamSpec("P")
T = TypeVar("T")

_ASKED = 4000  # characters of a document that similar ones are searched by
_SECONDS = 60.0  # for a connection to ask, and to read the answer, as for `hyperseek serve`
_READS = {"read_only_hint": True, "destructive_hint": False, "idempotent_hint": True, "open_world_hint": False}


class Result(BaseModel):
    """One result of a search."""

    id: Annotated[str, Field(description="Fetch the whole document by it")]
    title: str
    text: Annotated[str, Field(description="The passage that answers best")]
    url: Annotated[str, Field(description="To cite the document by")]
    score: Annotated[float, Field(description="Higher is better; comparable within one search")]


class Results(BaseModel):
    """The results of a search, best first."""

    results: list[Result]


class Fetched(BaseModel):
    """A whole document."""

    id: str
    title: str
    text: str
    url: Annotated[str, Field(description="To cite the document by")]
    metadata: dict[str, Any]


class Explained(BaseModel):
    """What a search did, and what it found."""

    plan: str
    stages: Annotated[list[str], Field(description="Time, candidates and recall of each stage")]
    results: list[Result]


class _Server(MCPServer):
    """Says in plain words what is wrong with the arguments of a tool."""

    async def call_tool(self, name: str, arguments: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Call a tool."""
        try:
            return await super().call_tool(name, arguments, *rest, **named)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            faults = error.__cause__.errors(include_url=False, include_input=False)
            said = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
            raise ToolError(f"{shown(name)} cannot be called so: {'; '.join(said)}") from None


def mcp_server(
    index: IndexLike,
    *,
    k: int = 10,
    where: str | None = None,
    plan: Any = None,
    options: Mapping[str, Any] | None = None,
    about: str | None = None,
    url: str | None = None,
) -> MCPServer:
    """Make a server of MCP whose tools search an index; `run_stdio` and `run_http` run it.

    Args:
        index: An index, the path of one, or the address of a server.
        k: Results of a search.
        where: Condition that every result meets, as in `Index.search`.
        plan: As in `Index.search`.
        options: Likewise.
        about: What the documents are about, which helps an assistant to decide when to search.
        url: Address of a document, with `{id}` in place of its id; None for the field `url` of its metadata, if it has
            one, and else an address that only names it.

    Returns:
        The server.

    Raises:
        StoreError: There is no index.
        InputError: `url` has no `{id}`.
    """
    if url is not None and "{id}" not in url:
        raise InputError(f"the address of documents holds {{id}}, as in https://example.org/{{id}}, not {shown(url)}")
    searched: Any = opened(index)
    name = getattr(searched, "name", None) or PurePath(searched.path).name.removesuffix(".index")
    asked: dict[str, Any] = {"k": k, "where": where, "plan": plan, "options": options}
    covers = f" The documents: {about}" if about else ""

    def address(document: Document) -> str:
        own = document.metadata.get("url")
        if url is not None:
            return url.replace("{id}", quote(document.id, safe=""))
        return own if isinstance(own, str) and own else f"hyperseek://{quote(name)}/{quote(document.id)}"

    def result(hit: Hit) -> Result:
        document: Any = hit.document
        text = hit.passages[0].text if hit.passages else hit.snippet.text
        title = hit.title or hit.id
        return Result(id=hit.id, title=title, text=text, url=address(document), score=hit.score)

    def newest() -> Any:
        if hasattr(searched, "is_current") and not searched.is_current():
            searched.refresh()
        return searched

    def found(document_id: str) -> Document:
        document: Document | None = newest().get(document_id)
        if document is None:
            raise MissingDocumentError(f"there is no document {shown(document_id)}; ids are in the results of searches")
        return document

    def in_our_words(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except HyperseekError as error:
                # The folder is the business of this machine alone.
                raise ToolError(str(error).replace(str(getattr(searched, "path", name)), name)) from None

        return call

    @in_our_words
    def search(query: Annotated[str, Field(description="A question or keywords, in plain language")]) -> Results:
        return Results(results=[result(hit) for hit in newest().search(query, **asked)])

    @in_our_words
    def fetch(id: Annotated[str, Field(description="From the results of a search")]) -> Fetched:
        document = found(id)
        return Fetched(
            id=document.id,
            title=document.title or document.id,
            text=document.text,
            url=address(document),
            metadata=dict(document.metadata),
        )

    @in_our_words
    def similar(id: Annotated[str, Field(description="From the results of a search")]) -> Results:
        [hits] = newest().search([found(id).full_text[:_ASKED]], exclude=[[id]], **asked)
        return Results(results=[result(hit) for hit in hits])

    @in_our_words
    def explain(query: Annotated[str, Field(description="As for search")]) -> Explained:
        told = newest().explain([query], texts=True, recall=True, **asked)
        hits = [result(hit) for hit in told.hits[0]]
        return Explained(plan=str(told.plan), stages=[*told.lines()], results=hits)

    server = _Server(
        "hyperseek",
        title=f"Search of {name}",
        instructions=f"Searches the documents of {name}; fetch a result by its id to read it whole.{covers}",
        version=__version__,
        log_level="WARNING",
    )
    for tool, title, description in (
        (search, "Search", f"Find the documents that answer a question, best first, by meaning.{covers}"),
        (fetch, "Fetch", "Read a whole document that a search found."),
        (similar, "Similar", "Find documents that are similar to one."),
        (explain, "Explain", "Search, and say how: what each stage did, how long it took, and what it missed."),
    ):
        annotations = ToolAnnotations(title=title, **_READS)
        server.add_tool(tool, title=title, description=description, annotations=annotations)
    return server


def run_stdio(server: MCPServer) -> None:
    """Answer over standard input and output, until the input ends; what else is printed goes to standard error.

    Args:
        server: The server.
    """
    server.run("stdio")


def http_app(server: MCPServer, *, host: str = "127.0.0.1", hosts: tuple[str, ...] = ()) -> ASGIApp:
    """Return the app of streamable HTTP, at the path `/mcp`.

    API keys are read from the environment variable `HYPERSEEK_API_KEYS`, separated by commas.

    Args:
        server: The server.
        host: Address that is listened at; other names are refused where it is this machine's own.
        hosts: Further names by which the server may be addressed, with their ports, as `search.example.org:8080`.

    Returns:
        The app.
    """
    security = None
    if hosts:
        own = [f"{name}:*" for name in ("127.0.0.1", "localhost", "[::1]")]
        origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in (*own, *hosts)]
        security = TransportSecuritySettings(allowed_hosts=[*own, *hosts], allowed_origins=origins)
    return _Keyed(server.streamable_http_app(host=host, transport_security=security), Keys(keys_of_environment()))


class _Keyed:
    """ASGI middleware that lets only requests with a key pass, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        if scope["type"] == "http" and not self._keys.admit(headers):
            message = "send a valid key: Authorization: Bearer KEY"
            refused = JSONResponse({"error": message}, 401, {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


def run_http(
    server: MCPServer,
    *,
    host: str = "127.0.0.1",
    port: int = 8081,
    hosts: tuple[str, ...] = (),
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer over streamable HTTP until Ctrl-C or SIGTERM.

    Args:
        server: The server.
        host: Address to listen at.
        port: Port to listen at; 0 for a free one.
        hosts: As for `http_app`.
        ready: Called with the URL of the server when it listens.

    Raises:
        InputError: The address cannot be listened at.
    """
    import uvicorn

    from hyperseek.serve.listening import Server, listening

    app = http_app(server, host=host, hosts=hosts)
    with listening(host, port) as (listener, url):
        config = uvicorn.Config(app, log_level="warning", lifespan="on")
        Server(config, partial(ready, f"{url}/mcp"), _SECONDS).run([listener])
