"""The Grafana dashboard asks for metrics that the server has, and what Compose mounts is there."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from fireside.serve.metrics import STAGES, Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "fireside.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


class AnyFigures:
    """Statistics with whatever is asked for."""

    def __getattr__(self, name: str) -> Any:
        return {"results": SimpleNamespace(hits=1, misses=1, nbytes=1)} if name == "caches" else 1.0


def known_metrics() -> dict[str, set[str]]:
    """Every series of a server that has heard one request: its name and its labels."""
    metrics = Metrics(SimpleNamespace(statistics=AnyFigures), "1", "hearth")  # type: ignore[arg-type]
    split: Any = SimpleNamespace(
        ttfa=0.2, audible_ttfa=0.3, audio_seconds=1.0, rtf=0.2, split=dict.fromkeys(STAGES, 0.1)
    )
    report: Any = SimpleNamespace(slacks=(1.0,), underruns=0, cached=False)
    metrics.told("openai", "busy")
    metrics.ended("openai", "done", report, split, split)
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*?)\})? ", metrics.render().decode(), re.M):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_every_metric_of_the_dashboard_exists_with_its_labels() -> None:
    known = known_metrics()
    asked = 0
    for expression in expressions():
        for name, selector in re.findall(r"\b((?:fireside|process)_\w+)\{(.*?)\}", expression):
            assert name in known, f"{expression}: no metric {name}"
            labels = set(re.findall(r"(\w+)=~?", selector)) - {"job", "instance"}
            assert labels <= known[name], f"{name} has no label {labels - known[name]}"
            asked += 1
        for grouped, name in re.findall(r"by \((.*?)\) \((?:rate\()?(\w+)\{", expression):
            names = {label.strip() for label in grouped.split(",")} - {"instance"}
            assert names <= known[name], f"{name} has no label {names - known[name]}"
    assert asked > 30


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count|created)$", "", name)


def test_every_metric_of_the_server_is_on_the_dashboard() -> None:
    shown = {family(name) for name in re.findall(r"\b(fireside_\w+)\{", " ".join(expressions()))}
    there = {family(name) for name in known_metrics() if name.startswith("fireside_")}
    counted = {name.removesuffix("_total") for name in there}  # beside a counter stands when it began
    assert {name.removesuffix("_total") for name in shown} | set(NOT_SHOWN) == counted


NOT_SHOWN = {
    "fireside_info": "asked by the variables of the dashboard",
    "fireside_measured_rtf": "constant from the start on",
    "fireside_draining": "a server that drains is about to vanish from the dashboard",
}


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in PANELS:
        assert panel["description"]
    for one, other in combinations([panel["gridPos"] for panel in every], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
        assert one["x"] + one["w"] <= 24


def test_compose_mounts_what_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounts = [mount.split(":")[0] for service in services.values() for mount in service["volumes"]]
    folders = [DEPLOY / mount for mount in mounts if mount.startswith("./")]
    assert len(folders) == 3
    for folder in folders:
        assert folder.exists(), folder
    grafana = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert any(mount.split(":")[1] == grafana for mount in services["grafana"]["volumes"])
    for file in DEPLOY.rglob("*.yaml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8")), file


def test_prometheus_asks_where_fireside_answers_by_default() -> None:
    from fireside.serve.config import ServeConfig

    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"{ServeConfig().host}:{ServeConfig().port}"
