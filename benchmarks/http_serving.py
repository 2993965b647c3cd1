"""What `corella-edge serve` reaches under load, a scenario at a time; the server is a process of its own.

    python benchmarks/http_serving.py spans --bundle runs/demo/bundle --out benchmarks/results/serving.json
    python benchmarks/http_serving.py faults --bundle …      (deadline, soak)

Each scenario says in its file what it does (benchmarks/scenarios/serving/). Load is open: requests are sent at their
moments whatever became of those before, and latency counts from these moments. A run beside which something else took
more than 5 % of the machine, or whose load generator took more than 10 % of a core, is void and not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from corella_edge.errors import CorellaError
from harness.load.setting import arguments
from harness.parts import merged, stamped
from harness.report import targets_table
from harness.results import write
from scenarios.serving import deadline, faults, soak, spans

SCENARIOS: dict[str, Any] = {"spans": spans, "faults": faults, "deadline": deadline, "soak": soak}


def main() -> int:
    options = parse()
    scenario = SCENARIOS[options.scenario]
    try:
        part = scenario.measure(options)
    except CorellaError as error:
        print(f"http_serving: {error}", file=sys.stderr)
        return error.exit_code
    part["targets"] = scenario.targets(part)
    print(json.dumps(part))
    print(targets_table(part["targets"]))
    if part["void"]:
        print(f"void: {json.dumps(part['load'])}, load generator {part['generator_share']:.1%} of a core")
        return 1
    if options.out:
        write(options.out, merged(options.out, options.scenario, stamped(part)))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="scenario", required=True)
    for name, scenario in SCENARIOS.items():
        command = commands.add_parser(
            name, help=scenario.__doc__.partition("\n")[0], description=scenario.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        arguments(command)
        scenario.arguments(command)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
