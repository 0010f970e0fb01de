#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# L0's option `resize` takes pages of L1's memory away at random exits and gives them back elsewhere at the first touch; libnvmx hears of it by
# nvmx_memory_changed. L1s and their L2s, which check their memory, report what they report undisturbed.
# NVMX_FULL=1: the small L1, and Linux with a guest of its KVM, too.
. "$(dirname "$0")/common" "$@"

steady=$build_folder/tests/steady/nvmx-steady.elf

taken() { # NAME, at least: pages while L2 ran, and pages that came back elsewhere
    local line
    line=$(tr -d '\r' <"$scratch/$1.out" | grep -m 1 '^nvmx-stats: resize ')
    read -r _ _ _ _ _ while_l2 _ back <<<"$line"
    [ "${while_l2:-0}" -ge "$2" ] && [ "${back:-0}" -ge "$2" ] || fail "$1: hardly anything happened: $line"
    printf '%s: %s\n' "$1" "$line"
}

same() { # PROGRAM, option...
    local name=$1
    shift
    diff -u "$scratch/$name-plain.report" "$scratch/$name.report" || fail "$name noticed (-: undisturbed, +: resized)"
    printf '%s: %d lines are the same\n' "$name" "$(wc -l <"$scratch/$name.report")"
}

for program in 'count 60' 'trust 1000'; do
    name=${program% *}
    # shellcheck disable=SC2086
    run "$name-plain" 0 --direct --timeout 200 "$steady" $program
    # shellcheck disable=SC2086
    run "$name" 0 --stats --l0-option resize=4,1 --timeout 300 "$steady" $program
    for which in "$name-plain" "$name"; do
        tr -d '\r' <"$scratch/$which.out" | grep '^l1: ' >"$scratch/$which.report"
        [ "$(wc -l <"$scratch/$which.report")" -ge 10 ] || fail "$which: hardly a report"
    done
    same "$name"
    taken "$name" 100
done

[ -n "${NVMX_FULL:-}" ] || exit 0

run l1-plain 0 --timeout 300 "$l1"
run l1 0 --stats --l0-option resize=4,1 --timeout 600 "$l1"
for which in l1-plain l1; do
    tr -d '\r' <"$scratch/$which.out" | grep '^l1: ' >"$scratch/$which.report"
    [ "$(wc -l <"$scratch/$which.report")" -ge 500 ] || fail "$which: hardly a report"
done
same l1
taken l1 10 # pages come back, and go again, mostly while L1 runs

prepare_linux
linux linux-plain --stats
linux linux --stats --l0-option resize=3,1
same linux
taken linux 100
