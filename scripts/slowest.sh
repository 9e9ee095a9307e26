#!/bin/bash
# Prints the 40 slowest tests of the last `make test` as a Markdown table, from the JSON files in $RESULTS (default: build/test). A test
# that ran in two steps has a row for each.
set -euo pipefail
python3 - "${RESULTS:-$(realpath -m "${BUILD:-build}")/test}" <<'END'
import glob, json, os, sys
rows = []
for path in glob.glob(sys.argv[1] + "/*.json"):
    for line in open(path):
        e = json.loads(line)
        if e["Action"] == "pass" and "Test" in e and "/" not in e["Test"]:
            rows.append((e["Elapsed"], e["Test"], e["Package"].removeprefix("bootprof/"), os.path.basename(path).removesuffix(".json")))
print("| test | package | step | s |\n| --- | --- | --- | ---: |")
for seconds, test, package, step in sorted(rows, reverse=True)[:40]:
    print(f"| {test} | {package} | {step} | {seconds:.1f} |")
END
