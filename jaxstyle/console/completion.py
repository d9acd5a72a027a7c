"""The completion of `jaxstyle` in a shell: its commands, and the flags of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxstyle.spec.errors import JaxstyleError

BASH = """\
_jaxstyle() {
  local word="${COMP_WORDS[COMP_CWORD]}" words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="COMMANDS"
  elif [ "${word#-}" != "$word" ]; then  # names of files are the shell's own affair
    case "${COMP_WORDS[1]}" in
CASES
    esac
  fi
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _jaxstyle jaxstyle
"""
SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
"""The lines by shell that come before the function of bash."""


def script(shell: str, flags: Mapping[str, Sequence[str]]) -> str:
    """A script that a shell reads to complete `jaxstyle`.

    Args:
        shell: `bash` or `zsh`.
        flags: those of every command, by its name.

    Raises:
        JaxstyleError: for another shell.
    """
    if shell not in SHELLS:
        raise JaxstyleError(
            "--completion", f"{shell or 'no shell'} is not known; use {' or '.join(SHELLS)}"
        )
    cases = "\n".join(f'      {name}) words="{" ".join(own)} --help" ;;' for name, own in flags.items())
    return SHELLS[shell] + BASH.replace("COMMANDS", " ".join(flags)).replace("CASES", cases)
