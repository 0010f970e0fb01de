# SPDX-License-Identifier: MIT
"""The page with all figures, and the picture for README.md."""

from html import escape

from . import charts, estimate, rows, stages, table

CSS = """
:root{color-scheme:light dark;--fg:#20242a;--dim:#5c636e;--bg:#fff;--line:#dfe3e8;--band:#f4f6f8;--good:#0f7a45;--bad:#b3304f}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ee;--dim:#a2a9b5;--bg:#14181e;--line:#333a44;--band:#1b2129;--good:#58c98b;--bad:#f08aa2}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1360px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 6px}p{margin:6px 0 12px;max-width:90ch}.dim{color:var(--dim)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}th{font-weight:600}
td:first-child,th:first-child{text-align:left}tr.group td{background:var(--band);font-weight:600;padding-top:8px}
small{color:var(--dim);display:block;font-size:11px;line-height:1.1}.good{color:var(--good)}.bad{color:var(--bad)}
svg{max-width:100%;height:auto;margin:8px 0}code{font-size:13px}
"""

# What bench/run calls the CPU of --hardware.
HARDWARE = "this machine's"

README_ROWS = ("l2_cpuid", "l2_out", "l2_rdmsr_bitmap", "l2_mmio", "l2_injection", "vmptrld_two_in_turn",
               "invept_resume_exit", "vmread", "l1_cpuid")


def label_of(name):
    return next(row.label for row in rows.all_rows() if row.name == name)


# -- pictures -------------------------------------------------------------------------------------------------------------------


def bars_of(figures, names, columns, title, subtitle):
    results = figures["rows"]
    columns = [column for column in rows.COLUMNS if column.name in columns and column.name in results]
    lines = [(label_of(name), [table.median(results, column.name, name) for column in columns]) for name in names]
    lines = [one for one in lines if any(one[1])]
    return charts.bars(title, subtitle, [(column.title, charts.COLOURS[column.name]) for column in columns], lines)


def stages_of(figures, row, title):
    found = figures.get("traces", {}).get("nvmx", {}).get(row)
    if not found:
        return None
    names = [name for name, _ in stages.PARTS]
    causes = {}
    for one in found["exits"]:
        parts = causes.setdefault(one["cause"], {})
        for part, count in one["parts"].items():
            parts[part] = parts.get(part, 0) + count
    who = {"vmresume": "VMRESUME of L1", "vmread": "VMREAD of L1", "vmwrite": "VMWRITE of L1", "vmptrld": "VMPTRLD of L1",
           "vmlaunch": "VMLAUNCH of L1", "vmclear": "VMCLEAR of L1", "invept": "INVEPT of L1"}
    lines = [(who.get(cause, f"L2's {cause.upper()}"), parts) for cause, parts in causes.items()]
    fields = found["vmx"].get("vmread", 0) + found["vmx"].get("vmwrite", 0)
    return charts.stacked(title, f"instructions of L0 by what came to it and by what it did; {fields} VMREADs and VMWRITEs, "
                          f"{found['vmx'].get('vmptrld', 0)} VMPTRLDs", names, lines)


def share_lines(results):
    out = []
    for row in rows.all_rows():
        ours, kvm = table.median(results, "nvmx", row.name), table.median(results, "kvm", row.name)
        if row.rated and ours and kvm:
            out.append((row.label, ours / kvm, f"{ours / kvm * 100:.0f} %, {kvm / ours:.1f} times less" if ours <= kvm
                        else f"{ours / kvm * 100:.0f} %"))
    return out


def turns(figures):
    series = []
    for column in rows.COLUMNS:
        found = [(count, table.median(figures["rows"], column.name, rows.turn_name(count))) for count in rows.TURNS]
        found = [point for point in found if point[1]]
        if found and column.name != "bare":
            series.append((column.title, charts.COLOURS[column.name], found))
    if not series:
        return None
    return charts.lines("N vmcs12s in turn", "instructions of VMPTRLD, VMRESUME, exit, on Bochs", "vmcs12s in turn", series)


def memory_text(value):
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if value >= size:
            return f"{value >> {'G': 30, 'M': 20, 'K': 10}[unit]}{unit}"
    return str(value)


def points(found, key, value="ns"):
    return [(one[key], one[value]) for one in found if key in one and one[value]]


def scaling(figures):
    found = figures.get("scaling")
    if not found:
        return []
    blue, light, orange = charts.COLOURS["nvmx"], charts.COLOURS["noshadow"], charts.COLOURS["kvm"]
    count = "instructions"

    def series(part, value):
        return [("4K pages", blue, points(found[part], "bytes_by_4k", value)),
                ("2M pages", orange, points(found[part], "bytes_by_2m", value))]
    return [charts.lines("Round trip and mapped memory", "instructions of library and callbacks, simulated host; all of L2's memory is in ept02",
                         "L2's memory", series("memory", count), x_text=memory_text),
            charts.lines("INVEPT with nothing changed, and a round trip", "nanoseconds, simulated host; what is mapped is compared with ept12",
                         "L2's memory", series("invept", "ns"), x_text=memory_text, log_y=True),
            charts.lines("Round trip and virtual processors", "instructions of library and callbacks, each processor in turn, one VM",
                         "processors", [("round trip", blue, points(found["cpus"], "cpus", count))], log_x=False),
            charts.lines("Round trip and vmcs12s in turn", "instructions of library and callbacks, simulated host, without shadowing",
                         "vmcs12s in turn", [("round trip", light, points(found["vmcs12s"], "vmcs12s", count))])]


def readme_picture(figures):
    pieces = [bars_of(figures, README_ROWS, ("nvmx", "kvm"), "What operations of a hypervisor cost it as a guest",
                      f"instructions, median; nvmx on the bare-metal host and KVM 6.1, on the same emulated CPU ({figures['cpu']})")]
    stage = stages_of(figures, "l2_cpuid", "Where nvmx's instructions go: CPUID of L2, handled by L1")
    parts, height = charts.below(*(pieces + ([stage] if stage else [])))
    return charts.picture(860, height, parts, "instructions of nvmx and of KVM for operations of a hypervisor")


# -- tables ---------------------------------------------------------------------------------------------------------------------


def cell(sample):
    if sample is None:
        return "<td>-</td>"
    least, median, most = sample
    spread = "" if least == most else f"<small>{least:,}-{most:,}</small>"
    return f"<td>{median:,}{spread}</td>"


def main_table(results, unit):
    columns = [column for column in rows.COLUMNS if column.name in results]
    head = "".join(f'<th title="{escape(column.about)}">{escape(column.title)}</th>' for column in columns)
    out = [f"<table><tr><th>{unit}</th>{head}<th>KVM / nvmx</th><th>goal</th></tr>"]
    for group in rows.GROUPS:
        out.append(f'<tr class="group"><td colspan="{len(columns) + 3}">{escape(group.title)}</td></tr>')
        for row in group.rows:
            times, judged = table.ratio(row, results), table.verdict(row, results)
            goal = "-" if not judged else (f'<span class="{"good" if judged[1] else "bad"}">{judged[0]:,} '
                                           f'{"met" if judged[1] else "not met"}</span>')
            cells = "".join(cell(results[column.name].get(row.name)) for column in columns)
            out.append(f"<tr><td>{escape(row.label)}</td>{cells}<td>{f'{times:.1f}' if times else '-'}</td><td>{goal}</td></tr>")
    return "".join(out) + "</table>"


def counts_table(traces):
    ways = [column for column in rows.COLUMNS if column.name in traces]
    out = ["<table><tr><th>operation</th><th>L0</th><th>exits</th><th>VMREAD</th><th>VMWRITE</th><th>VMPTRLD</th><th>VMCLEAR</th>"
           "<th>flushes</th><th>instructions</th><th>estimate, cycles</th></tr>"]
    for name in stages.ROWS:
        for way in ways:
            traced = traces[way.name].get(name)
            if not traced:
                continue
            vmx = traced["vmx"]
            exits, _, _, flushes, instructions = estimate.totals(traced)
            low, high = estimate.cycles(traced)
            counts = "".join(f"<td>{vmx.get(word, 0)}</td>" for word in ("vmread", "vmwrite", "vmptrld", "vmclear"))
            out.append(f"<tr><td>{escape(label_of(name))}</td><td>{escape(way.title)}</td><td>{exits}</td>{counts}<td>{flushes}</td>"
                       f"<td>{instructions:,}</td><td>{low:,}-{high:,}</td></tr>")
    return "".join(out) + "</table>"


def micro_table(micro):
    out = ["<table><tr><th>operation</th><th>ns</th><th>quartiles</th><th>instructions</th><th>VMREAD</th><th>VMWRITE</th>"
           "<th>other callbacks</th></tr>"]
    for one in micro["operations"]:
        ns, calls = one["ns"], one["callbacks"]
        others = ", ".join(f"{name} {count}" for name, count in calls.items()
                           if name not in ("VMREAD", "VMWRITE", "vmcs_read", "vmcs_write"))
        out.append(f"<tr><td><code>{escape(one['name'])}</code></td><td>{ns['median']:,.1f}</td><td>{ns['q1']:,.1f}-{ns['q3']:,.1f}</td>"
                   f"<td>{format(one['instructions'], ',') if one['instructions'] else '-'}</td><td>{calls.get('VMREAD', 0)}</td>"
                   f"<td>{calls.get('VMWRITE', 0)}</td><td style=\"text-align:left\">{escape(others)}</td></tr>")
    return "".join(out) + "</table>"


# -- the page -------------------------------------------------------------------------------------------------------------------


def svg(piece, label):
    parts, height = piece
    return charts.picture(860, height, parts, label)


def section(title, *content):
    return f"<h2>{escape(title)}</h2>" + "".join(content)


def paragraph(content):
    return f"<p>{escape(content)}</p>"


def unit_of(figures):
    return "cycles" if figures["cpu"] == HARDWARE else "instructions"


def begin(figures):
    """What was measured, and where: --hardware says so by the CPU's name (bench/run)."""
    emulated = figures["cpu"] != HARDWARE
    where = (f"Bochs, CPU model {figures['cpu']}, TSC = executed instructions" if emulated
             else "QEMU with KVM and nested VMX on a CPU with VT-x; figures are TSC cycles")
    facts = "; ".join([where, f"commit {figures['commit']}"] + figures["kvm"][:1])
    columns = [column.title for column in rows.COLUMNS if column.name in figures["rows"]]
    return (f"<h1>nvmx: what VMX operations cost</h1><p class='dim'>{escape(facts)}. Made by bench/run.</p>" +
            paragraph(f"One image, a hypervisor that does nothing but measure, runs on each of: {', '.join(columns)}. Figures are "
                      f"{unit_of(figures)} as that hypervisor's own TSC counts them: the median, and below it the "
                      "least and the greatest of the samples."))


def html(figures):
    results = figures["rows"]
    met, of = table.counts(results)
    body = [begin(figures),
            section("All operations", paragraph(f"Goals met: {met} of {of}." if of else ""), '<div class="scroll">', main_table(results, unit_of(figures)), "</div>")]
    stage = stages_of(figures, "l2_cpuid", "CPUID of L2, handled by L1")
    body.append(section("Round trips", svg(bars_of(figures, README_ROWS[:5], ("nvmx", "noshadow", "kvm", "kvm_noshadow"),
                                                   "L2 exits, L1 handles it, L2 goes on", "instructions, median"), "round trips")))
    lines = share_lines(results)
    if lines:
        body.append(section("nvmx as a share of KVM", svg(charts.shares(
            "Instructions of nvmx, in percent of KVM's", "median; the line is a sixth", lines, 1 / 6), "shares of KVM's cost")))
    if stage:
        pictures = [svg(stage, "stages of a CPUID round trip")]
        for name in ("l2_mmio", "vmptrld_two_in_turn", "vmclear_vmptrld_launch", "invept_resume_exit"):
            more = stages_of(figures, name, label_of(name))
            pictures.append(svg(more, name) if more else "")
        body.append(section("Where the instructions go", paragraph("Each instruction of one execution, traced by Bochs's debugger and put down "
                            "to the source file that it was compiled from."), *pictures))
    if figures.get("traces"):
        body.append(section("Counts, and an estimate for real CPUs", paragraph(estimate.ABOUT), '<div class="scroll">',
                            counts_table(figures["traces"]), "</div>"))
    growth = [piece for piece in [turns(figures)] + scaling(figures) if piece]
    if growth:
        body.append(section("How it grows", *[svg(piece, "scaling") for piece in growth]))
    if figures.get("micro"):
        body.append(section("The library by itself", paragraph("In one process, on callbacks that do nothing but their job (bench/micro). "
                            "Nanoseconds are of the machine that ran this."), '<div class="scroll">', micro_table(figures["micro"]), "</div>"))
    return ("<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
            f"<title>nvmx benchmarks</title><style>{CSS}</style></head><body>" + "".join(body) + "</body></html>\n")
