"""The page that a run of tools/gpu_check.sh leaves: what was measured, beside the limits of the same run, the peer, and the prediction."""


def page(lines, is_rehearsal):
    """Markdown of all lines of a run's results; of a run that ended early what there is."""
    title = "# A rehearsal on the host: the times mean nothing" if is_rehearsal else "# Measured on a GPU"
    parts = [title, "", *pieces(lines), *kernels(lines), *others(lines)]
    return "\n".join(parts) + "\n"


def pieces(lines):
    ended = [line for line in lines if "verdict" in line]
    if not ended:
        return ["Nothing ended."]
    rows = [f"| {line['piece']} | {line['verdict']} | {line['seconds']} |" for line in ended]
    return ["| piece | | s |", "|---|---|---|", *rows, ""]


def rate(line, limits):
    """What a measurement comes to, a number and its unit: of what bounds it by the limits, arithmetic or bytes."""
    by_flop, by_bytes = line.get("flop", 0) / 1e12, line.get("bytes", 0) / 1e9
    share = lambda amount, unit: amount / limits[unit] if limits.get(unit) else amount
    is_flop = by_flop > 0 and share(by_flop, "TFLOP/s") >= share(by_bytes, "GB/s")
    return (by_flop / line["seconds"], "TFLOP/s") if is_flop else (by_bytes / line["seconds"], "GB/s")


def kernels(lines):
    """A row for each case that was measured in turns."""
    measured = [line for line in lines if line["piece"] == "turns" and "seconds" in line and "op" in line]
    ours = [line for line in measured if not line.get("peer")]
    if not ours:
        return []
    peers = {(line["op"], line["case"]): line for line in measured if line.get("peer")}
    limits = {}
    for line in measured:
        if line["op"] == "limits":
            value, unit = rate(line, {})
            limits[unit] = max(limits.get(unit, 0.0), value)
    rows = ["| op | case | us | | share of the limit | peer | ours over peer |", "|---|---|---|---|---|---|---|"]
    for line in ours:
        value, unit = rate(line, limits)
        limit, peer = limits.get(unit), peers.get((line["op"], line["case"]))
        share = f"{value / limit:.0%}" if limit else ""
        beside = ["", ""]
        if peer:
            beside = [f"{peer['peer']} {1e6 * peer['seconds']:.1f} us", f"{peer['seconds'] / line['seconds']:.2f}x"]
        rows.append(f"| {line['op']} | {line['case']} | {1e6 * line['seconds']:.1f} | {value:,.1f} {unit} | {share} | {' | '.join(beside)} |")
    said = [f"Limit: {value:,.0f} {unit}." for unit, value in limits.items()]
    failed = [f"- {line['op']} {line['case']}: {line['error']}" for line in lines if line["piece"] == "turns" and "error" in line]
    return ["## Kernels", "", *rows, "", *said, "", *failed, ""]


def others(lines):
    """Probes and the large model, a line each."""
    parts = []
    for piece, name in (("probes", "Probes"), ("large", "A model of real size")):
        found = [line for line in lines if line["piece"] == piece and "verdict" not in line]
        if found:
            parts += [f"## {name}", ""]
            parts += ["- " + ", ".join(f"{key} {short(value)}" for key, value in line.items() if key != "piece") for line in found]
            parts.append("")
    return parts


def short(value):
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
