"""The verb `completion`: prints a script with which a shell completes verbs, options and fields."""

import contextlib
import importlib
import io
import re

from blip_jax.cli import Parser, config_files
from blip_jax.cli.main import VERBS

SHELLS = {
    "bash": "blip-jax completion bash > ~/.local/share/bash-completion/completions/blip-jax",
    "zsh": "blip-jax completion zsh > ~/.blip-jax.zsh, and in ~/.zshrc: source ~/.blip-jax.zsh",
    "fish": "blip-jax completion fish > ~/.config/fish/completions/blip-jax.fish",
}
OPTION = re.compile(r"^  (?:-\w, )?(--[a-z][\w.-]*)(=?)", re.MULTILINE)  # in the text of --help
# zsh reads it as well, by its `bashcompinit`. "=" divides words in bash, so that COMP_WORDS has
# "--config", "=" and "shapes" for --config=shapes.
BASH = r"""_blip_jax() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""
  if [[ "$word" == "=" ]]; then word=""; fi
  if [[ "$before" == "=" ]]; then before="${COMP_WORDS[COMP_CWORD-2]}"; fi
  if (( COMP_CWORD == 1 )); then
    words="VERBS --help --version"
  elif [[ "$before" == --config ]]; then
    words="CONFIGS"
  elif [[ "$word" == -* ]]; then
    case "${COMP_WORDS[1]}" in
CASES
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [[ "$word" != -* ]]; then COMPREPLY+=($(compgen -f -- "$word")); fi
  if [[ "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -F _blip_jax blip-jax
"""


def run(argv: list[str]) -> int:
    """Prints the script of a shell."""
    lines = ".  ".join(f"{shell}: {line}" for shell, line in SHELLS.items())
    parser = Parser(
        "completion",
        "Prints a script with which a shell completes verbs, options, config fields and names of "
        f"configs; make it again after an update. To install it: {lines}.",
    )
    parser.add_argument("shell", choices=SHELLS)
    print(script(parser.parse_args(argv).shell), end="")
    return 0


def script(shell: str) -> str:
    """Returns the script of a shell of SHELLS."""
    options = {verb: options_of(verb) for verb in VERBS}
    if shell == "fish":
        return _fish(options)
    cases = "\n".join(
        f'      {verb}) words="{" ".join(names)}" ;;' for verb, names in options.items()
    )
    text = BASH.replace("CASES", cases).replace("CONFIGS", " ".join(config_files.names()))
    text = text.replace("VERBS", " ".join(VERBS))
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def options_of(verb: str) -> list[str]:
    """Returns the options of a verb as its --help lists them; those of fields end with "="."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"blip_jax.cli.{verb}").run(["--help"])
    return list(dict.fromkeys(name + sign for name, sign in OPTION.findall(text.getvalue())))


def _fish(options: dict[str, list[str]]) -> str:
    lines = ["complete -c blip-jax -f -n __fish_use_subcommand -l help -l version"]
    for verb, what in VERBS.items():
        lines.append(f'complete -c blip-jax -f -n __fish_use_subcommand -a {verb} -d "{what}"')
        seen = f'-n "__fish_seen_subcommand_from {verb}"'
        for option in options[verb]:
            values = f'-x -a "{" ".join(config_files.names())}"' if option == "--config" else ""
            value = " -r" if option.endswith("=") else ""
            lines.append(f"complete -c blip-jax {seen} -l {option.strip('-=')}{value} {values}")
    return "".join(f"{line.rstrip()}\n" for line in lines)
