# SPDX-License-Identifier: MIT
"""The table as text: medians, with the least and the greatest sample where they differ."""

from . import rows


def number(value):
    return f"{value:,}"


def cell(sample):
    if sample is None:
        return "-"
    least, median, most = sample
    if least == median == most:
        return number(median)
    return f"{number(median)} [{number(least)}-{number(most)}]"


def median(results, column, name):
    sample = results.get(column, {}).get(name)
    return sample[1] if sample else None


def goal_of(row, results):
    """Instructions to stay within, or None."""
    kvm = median(results, "kvm", row.name)
    if not row.rated:
        return None
    if row.goal is not None:
        return row.goal
    return kvm // 6 if kvm else None


def ratio(row, results):
    """How many times KVM's figure is nvmx's; None where there is no telling."""
    ours, kvm = median(results, "nvmx", row.name), median(results, "kvm", row.name)
    return kvm / ours if ours and kvm and row.rated else None


def verdict(row, results):
    """(goal, met) or None."""
    goal, ours = goal_of(row, results), median(results, "nvmx", row.name)
    return None if goal is None or ours is None else (goal, ours <= goal)


def lines_of(results, columns):
    out = []
    for group in rows.GROUPS:
        out.append([group.title])
        for row in group.rows:
            if not any(row.name in results.get(column.name, {}) for column in columns):
                continue
            line = ["  " + row.label] + [cell(results.get(column.name, {}).get(row.name)) for column in columns]
            times, judged = ratio(row, results), verdict(row, results)
            line.append(f"{times:.1f}" if times else "-")
            line.append(f"{number(judged[0])} {'met' if judged[1] else 'not met'}" if judged else "-")
            out.append(line)
    return out


def text(results):
    columns = [column for column in rows.COLUMNS if column.name in results]
    head = ["instructions: median [least-most]"] + [column.title for column in columns] + ["KVM/nvmx", "goal"]
    lines = lines_of(results, columns)
    widths = [max(len(line[i]) for line in [head] + lines if len(line) > 1) for i in range(len(head))]

    def join(line):
        parts = [line[0].ljust(widths[0])] + [part.rjust(width) for part, width in zip(line[1:], widths[1:])]
        return "  ".join(parts).rstrip()

    out = [join(head)]
    for line in lines:
        if len(line) == 1:
            out.append("")
        out.append(join(line) if len(line) > 1 else line[0])
    return "\n".join(out) + "\n" + turns_text(results, columns)


def turns_text(results, columns):
    out = ["", "one of N vmcs12s in turn: VMPTRLD, resume, exit"]
    for count in rows.TURNS:
        name = rows.turn_name(count)
        if any(name in results.get(column.name, {}) for column in columns):
            medians = [median(results, column.name, name) for column in columns]
            out.append(f"  N = {count:2}  " + "  ".join(f"{column.title} {number(m)}" for column, m in zip(columns, medians)
                                                        if m is not None))
    return "\n".join(out) + "\n" if len(out) > 2 else ""


def counts(results):
    """(met, of how many)"""
    judged = [verdict(row, results) for row in rows.all_rows()]
    judged = [one for one in judged if one]
    return sum(1 for one in judged if one[1]), len(judged)
