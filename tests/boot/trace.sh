#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# L0 records a trace of the small L1 (boot --trace), nvmx trace reads it, and it agrees with the counts of the same run.
. "$(dirname "$0")/common" "$@"

nvmx=$build_folder/bindings/cli/nvmx
[ -x "$nvmx" ] || fail "no $nvmx (NVMX_BUILD_TOOLS)"

# A few scenarios, so that the ring holds all of them; few emulated seconds for the serial line.
run traced 0 --ips 10000000 --stats --timeout 300 --trace "$scratch/trace" --l0-option trace=20000 "$l1" io cpuid
grep -q 'nvmx-trace' "$scratch/traced.out" && fail 'lines of the trace on stdout'
"$nvmx" trace --json "$scratch/trace" >"$scratch/trace.json" || fail "nvmx trace: status $?"
"$nvmx" trace "$scratch/trace" >"$scratch/trace.text" || fail "nvmx trace: status $?"
tr -d '\r' <"$scratch/traced.out" | grep '^nvmx-stats: ' >"$scratch/stats"

python3 - "$scratch/trace.json" "$scratch/stats" <<'END' || fail 'the trace is not what the counts say'
import collections, json, re, sys

trace = json.load(open(sys.argv[1], encoding="utf-8"))
records = trace["records"]
assert trace["lost"] == 0 and len(records) > 200, (trace["lost"], len(records))
assert [r["number"] for r in records] == list(range(len(records)))
assert all(a["time"] < b["time"] for a, b in zip(records, records[1:]))

# Exits by level and who dealt with them. "emulated" of the counts is what is neither the host's nor reflected.
counted = collections.Counter()
for line in open(sys.argv[2], encoding="utf-8"):
    found = re.match(r"nvmx-stats: total L(\d) host (\d+) emulated (\d+) reflected (\d+)", line)
    if found:
        level, host, emulated, reflected = map(int, found.groups())
        counted.update({(level, "host"): host, (level, "emulated"): emulated, (level, "reflected"): reflected})
traced = collections.Counter()
for r in records:
    kind = "host" if r["handler"] == "host" else "reflected" if r["level"] == 2 and r["event"] == "exit to L1" else "emulated"
    traced[r["level"], kind] += 1
for key in [(1, "host"), (1, "emulated"), (2, "host"), (2, "emulated"), (2, "reflected")]:
    # The exit that prints the counts is in the trace and not yet in them, or the other way round.
    assert abs(counted[key] - traced[key]) <= 1, (key, counted[key], traced[key])
trips = sum(group["count"] for group in trace["round_trips"])
assert trips > 0 and all(g["min"] <= g["median"] <= g["max"] for g in trace["round_trips"])
print(f"trace: {len(records)} records, {trips} round trips by {len(trace['round_trips'])} exit reasons")
END
grep -q 'round trips L2 -> L1 -> L2' "$scratch/trace.text" || fail 'no round trips in the text'
grep -E -m 3 'CPUID' "$scratch/trace.text"

# A small ring keeps the last records.
run small 0 --ips 10000000 --timeout 300 --trace "$scratch/small" --l0-option trace=16 "$l1" io cpuid
"$nvmx" trace --json --summary "$scratch/small" >"$scratch/small.json" || fail "nvmx trace: status $?"
python3 -c 'import json, sys; t = json.load(open(sys.argv[1])); assert t["count"] == 16 and t["lost"] > 100, t' "$scratch/small.json" ||
    fail 'not the last 16 records'
