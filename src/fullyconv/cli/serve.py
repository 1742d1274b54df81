"""``fullyconv serve``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import complain, out
from fullyconv.cli.options import DeviceOption, EngineOption, PrecisionOption, TrustOption, import_from_here

if TYPE_CHECKING:
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.predict.image import Segmenter

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Annotated[list[Path], typer.Argument(help="Model folders (RUN/model); the first is the usual one.")],
    host: Annotated[str, typer.Option(help="The address to listen at; the usual one is this machine's alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at.")] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="FULLYCONV_API_KEY", help="What clients have to send as Authorization: Bearer KEY.")
    ] = "",
    max_upload: Annotated[float, typer.Option(min=0.001, help="The most of one upload, MiB.")] = 32,
    max_pixels: Annotated[float, typer.Option(min=0.0001, help="The most of one picture, million pixels.")] = 25,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may be under way; others get 503.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Waiting pictures of one size that are computed together.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 60,
    upload_rate: Annotated[
        float, typer.Option(min=0.01, help="KiB a second that an upload has to bring; its first 10 s do not count.")
    ] = 16,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name by which the service may be asked for; may be repeated.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Serve models over HTTP, with a page to try them on: POST a picture to /predict, get its mask (extra: serve).

    Example: `fullyconv serve runs/photos/model`, then open http://127.0.0.1:8000, or
    `curl --data-binary @photo.jpg "http://127.0.0.1:8000/predict?output=overlay" > overlay.jpg`.
    Of a model with several heads every further one is a model of its own, called NAME-HEAD.
    """
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise ImportError(f"serve needs {', '.join(missing)}: pip install 'fullyconv[serve]'")
    import uvicorn

    from fullyconv.checkpoint import find_model
    from fullyconv.export import model_name
    from fullyconv.machine import arithmetic, keep_freed_memory
    from fullyconv.opening import load
    from fullyconv.serve import Settings, make_app

    import_from_here(*(trust or ()))
    keep_freed_memory()
    opened: dict[str, Segmenter | SceneSegmenter] = {}
    for model in models:
        segmenter = load(model, device=device, precision=arithmetic(precision), engine=engine, trust=trust or ())
        segmenter.soon = True
        name = model_name(find_model(model))
        names = {name, *(f"{name}-{head}" for head in segmenter.heads)}
        if twice := sorted(names & opened.keys()):
            raise ValueError(f"two models are called {twice[0]!r}: rename the folder of one")
        opened[name] = segmenter
        opened |= {f"{name}-{head}": further for head, further in segmenter.heads.items()}
    settings = Settings(
        upload_bytes=int(max_upload * (1 << 20)), pixels=int(max_pixels * 1e6), waiting=waiting, batch=batch,
        seconds=timeout, rate=max(1, int(upload_rate * 1024)), key=api_key, hosts=_hosts(host, allow_host or []),
    )  # fmt: skip
    app = make_app(opened, settings)
    if host not in LOOPBACK and not api_key:
        complain("careful", f"whoever reaches {host} may use this service: set FULLYCONV_API_KEY to ask for a key")
    out.print(f"{', '.join(opened)} at http://{f'[{host}]' if ':' in host else host}:{port}")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(timeout) + 1,
    )


def _hosts(host: str, more: list[str]) -> tuple[str, ...]:
    """Return the names by which the service may be asked for: any, unless it is this machine's alone."""
    if host not in LOOPBACK:
        return tuple(more) or ("*",)
    return ("localhost", "127.0.0.1", "[::1]", *more)
