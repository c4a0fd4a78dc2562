"""What those who run a server ask: whether it lives, is ready, what it is, what it did."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import JSONResponse

from fireside.serve.encode import FORMATS
from fireside.serve.metrics import CONTENT_TYPE
from fireside.serve.models import Bounds, Health, Info, RequestReport, errors
from fireside.serve.routing import TheClient, TheServer
from fireside.serve.version import VERSION

router = APIRouter(tags=["Operation"])


@router.get("/health")
def health() -> Health:
    """Whether the process lives."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
def ready(server: TheServer) -> Response:
    """Whether it takes requests: not while it finishes its last ones."""
    if server.service.ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "draining" if server.draining else "starting"}, 503)


@router.get("/v1/info")
def info(server: TheServer) -> Info:
    """What runs here and what may be asked of it; needs no key."""
    config = server.config
    return Info(
        version=VERSION,
        model=server.tts.name,
        sample_rate=server.tts.sample_rate,
        needs_key=server.keys.needed,
        uploads=config.uploads,
        response_formats=list(FORMATS),
        limits=Bounds(
            max_text=config.max_text,
            max_upload_bytes=config.max_upload_bytes,
            max_upload_seconds=config.max_upload_seconds,
            streams_per_key=config.streams_per_key,
            max_streams=server.service.max_streams,
        ),
    )


@router.get("/v1/requests/{request_id}", responses=errors(404))
def show_request(request_id: str, server: TheServer, client: TheClient) -> RequestReport:
    """What became of one of the client's last requests, and where its time went."""
    report: dict[str, Any] | None = server.reports.get(client, request_id)
    if report is None:
        raise HTTPException(404, f"Nothing is known of a request '{request_id[:64]}': only the last ones are kept.")
    return RequestReport(**report)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
)
def metrics(server: TheServer) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(server.metrics.render(), media_type=CONTENT_TYPE)
