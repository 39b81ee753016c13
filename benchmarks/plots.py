"""Curves of throughput and latency against concurrency, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput import (
    CEILING,
    GRPC,
    GRPC_2,
    NAIVE,
    OF_PROTOCOL,
    PEER,
    PEER_GRPC,
    REST,
    REST_2,
    V2_BINARY,
    V2_GRPC,
    V2_JSON,
    Cell,
    by_contender,
)

# Okabe and Ito's, which people who see fewer colours tell apart; and a mark each, for print.
STYLES = {
    CEILING: ("#000000", "--", "None"),
    GRPC: ("#0072b2", "-", "o"),
    REST: ("#009e73", "-", "s"),
    GRPC_2: ("#0072b2", ":", "o"),
    REST_2: ("#009e73", ":", "s"),
    NAIVE: ("#d55e00", "-", "^"),
    V2_GRPC: ("#0072b2", "-", "o"),
    V2_BINARY: ("#009e73", "-", "s"),
    V2_JSON: ("#56b4e9", "-", "D"),
    PEER: ("#cc79a7", "-", "v"),
    PEER_GRPC: ("#cc79a7", ":", "v"),
}


def draw_throughput(cells: Sequence[Cell], model: str, protocol: str, title: str, path: Path) -> None:
    """Draw what speaks the protocol, and the ceiling."""
    # Not at the top: whoever has no matplotlib gets the tables all the same.
    import matplotlib as mpl

    mpl.use("svg")
    # Text as text, and the same file for the same figures.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "decant", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name, line in by_contender(cells, model).items():
        if name not in (CEILING, *OF_PROTOCOL[protocol]):
            continue
        colour, style, mark = STYLES[name]
        callers = [cell.callers for cell in line]
        look: dict[str, Any] = {"color": colour, "linestyle": style, "marker": mark, "markersize": 4, "label": name}
        rates.plot(callers, [cell.load.rate for cell in line], **look)
        latencies.plot(callers, [cell.load.p50 * 1e3 for cell in line], **look)
        # p50 to p99.
        low, high = ([getattr(cell.load, p) * 1e3 for cell in line] for p in ("p50", "p99"))
        latencies.fill_between(callers, low, high, color=colour, alpha=0.12, linewidth=0)
    callers = sorted({cell.callers for cell in cells})
    for axes, label in ((rates, "answers a second"), (latencies, "milliseconds: p50, shaded to p99")):
        axes.set(xscale="log", xticks=callers, xticklabels=map(str, callers), xlabel="callers", ylabel=label)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    rates.set_ylim(bottom=0)
    latencies.set_yscale("log")
    figure.suptitle(title)
    figure.legend(*rates.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
