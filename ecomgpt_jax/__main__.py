"""Lists the commands: `python -m ecomgpt_jax`."""

import ast
import sys
from pathlib import Path

import ecomgpt_jax


def commands() -> dict[str, str]:
    """Returns {command: first line of its docstring}; reads the files without importing them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "cli.run(main)" in text and path.name != "__main__.py":
            first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
            found[path.stem] = first.split(": `")[0].rstrip(".")
    return found


def main() -> None:
    """Prints the list; for a command given as an argument, prints how to start it."""
    known = commands()
    if arguments := [word for word in sys.argv[1:] if word not in ("-h", "--help")]:
        name = arguments[0] if arguments[0] in known else "<command>"
        print(f"error: {arguments[0]}: start a command as python -m ecomgpt_jax.{name}", file=sys.stderr)
        sys.exit(2)
    print(f"ecomgpt_jax {ecomgpt_jax.__version__}\n")
    for name, does in known.items():
        print(f"  python -m ecomgpt_jax.{name:<12} {does}")
    print("\n--help of a command shows an example and its flags; README.md explains the commands.")


if __name__ == "__main__":
    main()
