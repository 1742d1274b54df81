"""The service: what can be asked for, and how much of it at once."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from fullyconv.data.raster import COLOURS
from fullyconv.files import BadFile
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Given
from fullyconv.serve.answers import Output, Wanted, encode
from fullyconv.serve.batching import Batcher, Job
from fullyconv.serve.metrics import Metrics
from fullyconv.serve.settings import Settings
from fullyconv.serve.uploads import Arrivals, decode, read_upload

SECURE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            },
        },
    }
}
HELPERS = 2  # threads that read and write files of pictures


class Service:
    """The models, and all who wait for them.

    Args:
        models: Segmenters of pictures by their names; the first is the one that is meant where none is named.
        settings: The bounds.

    Raises:
        ValueError: For a model that does not label pictures.
    """

    def __init__(self, models: Mapping[str, Segmenter], settings: Settings) -> None:
        if not models:
            raise ValueError("a service has a model or more")
        for name, segmenter in models.items():
            if segmenter.network.in_channels != COLOURS or not hasattr(segmenter.preprocess, "fill"):
                raise ValueError(f"{name} does not label pictures: only such models are served")
            if segmenter.preprocess.levels is not None and segmenter.preprocess.levels.beside:
                raise ValueError(f"{name} sees several files of a picture, and an upload is one")
        self.models, self.settings, self.metrics = dict(models), settings, Metrics()
        self.helpers = ThreadPoolExecutor(HELPERS, "pictures")
        self.batcher = Batcher(settings.batch, self.metrics.batches.add)
        held = settings.waiting * settings.upload_bytes
        self.arrivals = Arrivals(settings.upload_bytes, held, patience=settings.patience, rate=settings.rate)

    def close(self) -> None:
        """Finish what is under way."""
        self.batcher.close()
        self.helpers.shutdown()

    def admit(self, request: Request) -> None:
        """Ask for the key, if there is one; raises ``HTTPException``."""
        given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.settings.key and not hmac.compare_digest(given.encode(), self.settings.key.encode()):
            raise HTTPException(401, "send the key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    def model(self, name: str | None, head: str | None) -> Segmenter:
        """Return a model, or a further head of it; raises ``HTTPException`` for an unknown name."""
        name = next(iter(self.models)) if name is None else name
        if name not in self.models:
            raise HTTPException(404, f"no model is called {name[:80]!r}: there are {', '.join(self.models)}")
        found = self.models[name]
        if not head or head == found.head:
            return found
        if head not in found.heads:
            known = f"its further heads are {', '.join(found.heads)}" if found.heads else "it has no further heads"
            raise HTTPException(404, f"no head of {name} is called {head[:80]!r}: {known}")
        return found.heads[head]

    def class_index(self, segmenter: Segmenter, wanted: str | None) -> int:
        """Return the number of a class that is given by name or number; raises ``HTTPException``."""
        names = segmenter.classes.names
        if wanted in names:
            return names.index(wanted)
        if wanted is not None and re.fullmatch("[0-9]{1,9}", wanted) and int(wanted) < len(names):
            return int(wanted)
        what = "class is missing" if wanted is None else f"no class is called {wanted[:80]!r}"
        raise HTTPException(422, f"{what}: there are {', '.join(names)}")

    async def help_with(self, work: Callable[[], Any]) -> Any:
        """Do something in a thread that would keep others waiting here."""
        return await asyncio.get_running_loop().run_in_executor(self.helpers, work)

    def refuse_when_full(self) -> None:
        """Raise ``HTTPException`` where all places are taken."""
        if self.metrics.under_way >= self.settings.waiting:
            what = f"{self.settings.waiting} requests are under way already: come again"
            raise HTTPException(503, what, {"Retry-After": "1"})

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Hold a place of the service; raises ``HTTPException`` where none is left."""
        self.refuse_when_full()
        self.metrics.under_way += 1
        started = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.under_way -= 1
            self.metrics.seconds.add(time.perf_counter() - started)

    async def predict(self, request: Request, segmenter: Segmenter, wanted: Wanted) -> Response:
        """Answer one request; raises ``HTTPException``."""
        self.refuse_when_full()  # before the upload is read, too
        try:
            async with asyncio.timeout(self.settings.seconds):
                upload = await read_upload(request, self.arrivals)
                with self.under_way():
                    given = Given(limits=self.settings.limits())
                    picture = await self.help_with(partial(decode, upload, partial(segmenter.read, given=given)))
                    job = Job(segmenter, picture.values, wanted.probabilities)
                    found = await asyncio.wrap_future(self.batcher.submit(job))
                    content, kind = await self.help_with(lambda: encode(found.without(picture.missing), wanted))
        except ClientDisconnect:
            raise HTTPException(400, "the client left") from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.settings.seconds:g} s", {"Retry-After": "5"}) from None
        except BadFile as error:
            raise HTTPException(422, str(error)) from None
        except MemoryError as error:
            raise HTTPException(503, f"not enough memory ({error}): come again", {"Retry-After": "5"}) from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        height, width = picture.values.shape[:2]
        size = {"X-Image-Height": str(height), "X-Image-Width": str(width)}
        return Response(content, media_type=kind, headers=size | {"Cache-Control": "no-store"})

    def describe(self) -> list[dict[str, Any]]:
        """Describe the models."""
        return [
            {
                "name": name,
                "network": getattr(each.making.heads[0].architecture, "name", ""),
                "head": each.head,
                "engine": each.prepared().engine.name,
                "smallest_input": list(each.network.smallest_input),
                "classes": [
                    {"index": index, "name": each.classes.names[index], "value": value, "colour": list(colour)}
                    for index, (value, colour) in enumerate(zip(each.classes.values, each.classes.colours, strict=True))
                ],
                "ignore_index": each.classes.ignore_index,
            }
            for name, each in self.models.items()
        ]


def make_app(models: Mapping[str, Segmenter], settings: Settings | None = None) -> FastAPI:
    """Make the service, an ASGI application.

    Args:
        models: Segmenters of pictures by their names; the first is the one that is meant where none is named.
        settings: The bounds; default: the usual ones.

    Returns:
        What an ASGI server runs.

    Raises:
        ValueError: For no model, or one that does not label pictures.

    >>> from fullyconv.networks import build
    >>> from fullyconv.types import ClassSet, Preprocess
    >>> network = build("fcn1s-spectral2", 2, channels=3)
    >>> model = Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
    >>> sorted(make_app({"small": model}).openapi()["paths"])
    ['/health', '/metrics', '/models', '/predict']
    """
    service = Service(models, settings or Settings())
    settings = service.settings

    @asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(title="fullyconv", docs_url=None, redoc_url=None, lifespan=alive)  # their pages load from elsewhere
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path if request.url.path in KNOWN else "other"
        try:
            response = await answer(request)
        except Exception:  # a mistake of ours: the server writes it down and answers 500
            service.metrics.answered(path, 500)
            raise
        service.metrics.answered(path, response.status_code)
        for name, value in SECURE.items():
            response.headers.setdefault(name, value)
        return response

    _add_routes(app, service, [Depends(service.admit)])
    return app


KNOWN = ("/", "/predict", "/models", "/health", "/metrics", "/openapi.json")


def _add_routes(app: FastAPI, service: Service, guarded: list[Any]) -> None:
    @app.post("/predict", dependencies=guarded, openapi_extra=BODY, response_class=Response)
    async def predict(  # noqa: PLR0913 (the questions of one address)
        request: Request,
        output: Annotated[Output, Query(description="What to return; see docs/serve.md.")] = "mask",
        model: Annotated[str | None, Query(description="A name of /models; default: the first.")] = None,
        head: Annotated[str | None, Query(description="Of a model with several: a further head's name.")] = None,
        alpha: Annotated[float, Query(ge=0, le=1, description="Of the overlay: the colours' share.")] = 0.5,
        simplify: Annotated[float, Query(ge=0, le=1000, description="Of polygons: pixels.")] = 0.0,
        cls: Annotated[str | None, Query(alias="class", description="Of heat: a class, by name or number.")] = None,
    ) -> Response:
        """Label every pixel of the picture in the body."""
        segmenter = service.model(model, head)
        index = service.class_index(segmenter, cls) if output == "heat" else 0
        return await service.predict(request, segmenter, Wanted(output, alpha, simplify, index))

    @app.get("/models", dependencies=guarded)
    def models() -> JSONResponse:
        """Describe the models, their classes and colours."""
        return JSONResponse(service.describe())

    @app.get("/health")
    def health() -> dict[str, str]:
        """Tell that the service answers."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guarded, response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Return counts in the text format of Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(files("fullyconv.serve").joinpath("templates/page.html").read_text("utf-8"))
