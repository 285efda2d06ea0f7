"""The command line; the only package that prints or exits."""

import os
import sys

from distillkit.errors import Interrupted


def main() -> None:
    """Entry point of the console script: from here on a signal ends it in one line, with status 130."""
    from distillkit.interrupt import came_early, early_signals

    with early_signals():
        try:
            from distillkit.cli.app import main as begin

            begin()
        except KeyboardInterrupt:
            _end()
        except Exception:  # a module that was cut short may say anything
            if not came_early():
                raise
            _end()


def _end() -> None:
    """At once: modules may be half loaded."""
    if "--json" in sys.argv:
        sys.stdout.write(f'{{"error": "interrupted", "exit_status": {Interrupted.exit_status}}}\n')
    sys.stderr.write("error: interrupted\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Interrupted.exit_status)
