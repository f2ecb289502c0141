"""The gate table as a picture.

Which gate admits which capability, in five layers, and the four-part answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kernelpkg.widgets.view import Column, Markup, View, chip, esc, html_table, symbol, text_table


def matrix(rows: Iterable[Mapping[str, Any]], capability: object = None) -> View:
    """Gates down, capabilities across.

    Each cell is what the layers say, and a cell where they differ names them.

    `rows` are those of `gates.agreement()`: gate, layer, capability, admits, reason. `capability` is
    framed.
    """
    cells: dict[tuple[str, str], dict[str, bool]] = {}
    gates: dict[str, None] = {}
    capabilities: dict[str, None] = {}
    for row in rows:
        gate, cap = str(row["gate"]), str(row["capability"])
        gates[gate] = capabilities[cap] = None
        said = cells.setdefault((gate, cap), {})
        if row["admits"] is not None:
            said[str(row["layer"])] = bool(row["admits"])
    layers = list(dict.fromkeys(name for cell in cells.values() for name in cell))

    def word(cell: Mapping[str, bool]) -> str:
        if len(set(cell.values())) <= 1:
            return "yes" if all(cell.values()) and cell else "no"
        odd = [name for name, admits in cell.items() if admits != (sum(cell.values()) * 2 > len(cell))]
        return "differ: " + ", ".join(odd)

    def shown(cell: Mapping[str, bool]) -> Markup:
        what = word(cell)
        return chip("fail", what) if what.startswith("differ") else chip(what)

    columns = [Column("gate", "gate")] + [
        Column(cap, cap, "centre", hot=capability is not None and cap == str(capability))
        for cap in capabilities
    ]
    table_rows = [{"gate": g} | {c: shown(cells.get((g, c), {})) for c in capabilities} for g in gates]
    text_rows = [
        {"gate": g} | {c: f"{symbol(w)} {w}" for c in capabilities for w in [word(cells.get((g, c), {}))]}
        for g in gates
    ]
    differing = sum(word(cell).startswith("differ") for cell in cells.values())
    agree = "all agree" if not differing else f"{differing} cells differ"
    caption = f"Which gate admits which capability ({len(layers)} layers asked: {', '.join(layers)}; {agree})"
    return View(text_table(columns, text_rows, caption), html_table(columns, table_rows, caption))


def answers(items: Sequence[Any], device: str) -> View:
    """What each gate says of one device.

    Have, need, why and what to do instead. `items` are `Gate.ask()` answers.
    """
    text, html = [f"What the gates say of {device}"], [f"<p><b>What the gates say of {esc(device)}</b></p>"]
    for answer in items:
        gate = getattr(answer.gate, "id", answer.gate)
        verdict = "yes" if answer.admitted else "no"
        parts = [(name, getattr(answer, name)) for name in ("have", "need", "why", "instead")]
        parts = [(name, value) for name, value in parts if value]
        text.append(f"{symbol(verdict)} {gate}: {'admitted' if answer.admitted else 'refused'}")
        text.extend(f"    {name:8}{value}" for name, value in parts)
        listed = "".join(f"<dt>{name}</dt><dd>{esc(value)}</dd>" for name, value in parts)
        mark = chip("pass" if answer.admitted else "fail", "admitted" if answer.admitted else "refused")
        html.append(
            f'<div class="kp-card kp-b-{verdict}"><b><code>{esc(gate)}</code></b> {mark}'
            f"<dl>{listed}</dl></div>"
        )
    return View("\n".join(text), "".join(html))


def explorer(choices: Mapping[str, str], ask: Callable[[str], View], chosen: str) -> View:
    """A dropdown over devices with the answer under it: `choices` is label to name, `ask(name)` the answer.

    Without a kernel the answer for `chosen` stays readable.
    """
    import ipywidgets as widgets

    first = ask(chosen)
    options = list(choices.items())
    if chosen not in choices.values():
        options.insert(0, (chosen, chosen))
    menu = widgets.Dropdown(options=options, value=chosen, description="Device", layout={"width": "32rem"})
    pane = widgets.HTML(value=_framed(first))

    def changed(change: Mapping[str, Any]) -> None:
        pane.value = _framed(ask(change["new"]))

    menu.observe(changed, names="value")
    return View(first.text, first.html, widget=widgets.VBox([menu, pane]))


def _framed(view: View) -> str:
    return view._repr_mimebundle_()["text/html"]


def devices(found: Sequence[Any], message: str | None) -> View:
    """The devices of this machine, one row each with its unknown fields as dashes.

    Else the sentence why none.
    """
    if not found:
        said = message or "No device was found."
        return View(said, f"<p>{chip('unproved', 'no device')}: {esc(said)}</p>")
    columns = [
        Column("name", "device"),
        Column("capability", "capability", "right"),
        Column("sm", "code"),
        Column("multiprocessors", "SMs", "right"),
        Column("memory", "memory", "right"),
        Column("available", "available", "right"),
        Column("l2", "L2", "right"),
        Column("shared", "shared memory per block", "right"),
        Column("driver", "driver", "right"),
        Column("source", "source", "wrap"),
    ]
    rows = [
        {
            "name": d.name + (" (integrated)" if d.integrated else ""),
            "capability": d.capability,
            "sm": d.sm,
            "multiprocessors": d.multiprocessors,
            "memory": _size(d.memory_bytes),
            "available": _size(d.memory_available_bytes),
            "l2": _size(d.l2_bytes),
            "shared": _size(d.shared_memory_optin),
            "driver": d.driver,
            "source": d.source,
        }
        for d in found
    ]
    caption = "Devices" + (f" ({message})" if message else "")
    return View(text_table(columns, rows, caption), html_table(columns, rows, caption))


def _size(value: int | None) -> str | None:
    """Bytes in the unit a person would use."""
    if value is None:
        return None
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value} B"


def known(devices: Iterable[Any], capabilities: Iterable[Any] = ()) -> dict[str, str]:
    """Menu entries, label to name: the known devices, then the capabilities that none of them has."""
    rows = list(devices)
    entries = {f"{d.name} ({d.capability})": d.name for d in rows}
    taken = {str(d.capability) for d in rows}
    return entries | {f"capability {c}": str(c) for c in capabilities if str(c) not in taken}


def faults(caught: Mapping[str, Sequence[str]]) -> View:
    """Which broken layers were found: layer to the sentences that name it."""
    columns = [
        Column("layer", "layer that was broken"),
        Column("verdict", "found"),
        Column("said", "what the comparison says", "wrap"),
    ]
    rows = [{"layer": layer, "said": "; ".join(said) or "nothing"} for layer, said in caught.items()]
    text_rows = [r | {"verdict": "✓ yes" if caught[r["layer"]] else "✗ no"} for r in rows]
    html_rows = [r | {"verdict": chip("yes") if caught[r["layer"]] else chip("fail", "no")} for r in rows]
    return View(text_table(columns, text_rows), html_table(columns, html_rows))
