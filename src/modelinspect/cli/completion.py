"""
``modelinspect completion SHELL``: the script that makes a shell complete.

The scripts hand the line up to the cursor to this program and get back one
candidate a line, with a tab and a remark behind it. Bash splits words at ``:``
and replaces only what stands behind it, so the script takes off what bash
already has.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = ["command"]

_ASK = (
    "_MODELINSPECT_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args "
    '_TYPER_COMPLETE_ARGS="{line}" "$1" 2>/dev/null'
)

_BASH = r"""_modelinspect() {
    local line="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}" IFS=$'\n' word prefix entry
    word="${line##*[[:space:]]}"
    case "$current" in
        :|=) prefix="$word" ;;
        *) prefix="${word%"$current"}" ;;
    esac
    COMPREPLY=()
    for entry in $(@ASK@); do
        entry="${entry%%$'\t'*}"
        COMPREPLY+=("$(printf %q "${entry#"$prefix"}")")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[/:.] ]]; then
        compopt -o nospace
    fi
}
complete -F _modelinspect modelinspect
"""

_ZSH = r"""#compdef modelinspect
_modelinspect() {
    local -a values shown
    local entry
    for entry in ${(f)"$(@ASK@)"}; do
        values+=("${entry%%$'\t'*}")
        shown+=("${entry/$'\t'/  -- }")
    done
    local -a open
    open=(${(M)values:#*[/:.]})
    if (( ${#open} )); then
        compadd -S '' -d shown -a values
    else
        compadd -d shown -a values
    fi
}
if [[ "$funcstack[1]" == "_modelinspect" ]]; then
    _modelinspect "$@"
else
    compdef _modelinspect modelinspect
fi
"""

_FISH = """function __modelinspect_complete
    env _MODELINSPECT_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) modelinspect 2>/dev/null
end
complete --command modelinspect --no-files --arguments '(__modelinspect_complete)'
"""

SCRIPTS = {
    "bash": _BASH.replace("@ASK@", _ASK.format(line="$line")),
    "zsh": _ZSH.replace(
        "@ASK@", _ASK.format(line="${(j: :)words[1,CURRENT]}").replace('"$1"', '"$words[1]"')
    ),
    "fish": _FISH,
}


def command(
    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False),
    ],
) -> None:
    """
    Print the script that completes targets, definitions, sections and names.

    \b
    Example:
      modelinspect completion bash >> ~/.bashrc
    """  # noqa: D301  (the escape tells Click to keep the lines)
    print(SCRIPTS[shell], end="")
