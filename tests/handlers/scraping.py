"""What Prometheus would make of a server's metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from handlers.http_server import HttpServer
from tests.handlers.http_front import ask

Key = tuple[str, frozenset[tuple[str, str]]]


class Scrape(dict[Key, float]):
    """All samples, by their names and labels."""

    def value(self, name: str, /, **labels: str) -> float:
        """Of the one series that has these labels, and maybe more."""
        (value,) = self.values_of(name, **labels)
        return value

    def values_of(self, name: str, /, **labels: str) -> list[float]:
        return [value for (each, all_of_it), value in self.items() if each == name and labels.items() <= all_of_it]

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(labels)[label] for each, labels in self if each == name and label in dict(labels)}

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self}


def parsed(text: str) -> Scrape:
    return Scrape(
        # OpenMetrics' suffix, which the parser adds where it is missing.
        ((_as_sent(sample.name, text), frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def scrape(server: HttpServer) -> Scrape:
    status, headers, content = ask(server, "GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return parsed(content.decode())


def _as_sent(name: str, text: str) -> str:
    bare = name.removesuffix("_total")
    return bare if f"# TYPE {bare} counter" in text else name
