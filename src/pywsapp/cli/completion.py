"""`pywsapp completion`: write a completion script for a shell, made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from pywsapp.cli.output import write
from pywsapp.cli.parser import Commands, Parser, add_command

_EPILOG = (
    "bash: add  source <(pywsapp completion bash)  to ~/.bashrc. "
    "zsh: add  source <(pywsapp completion zsh)  to ~/.zshrc, after compinit. "
    "fish: pywsapp completion fish > ~/.config/fish/completions/pywsapp.fish"
)
#: The names of values for which a shell completes the names of files, or of directories.
_FILES, _DIRECTORIES = ("FILE", "PATH"), ("DIRECTORY",)


class _Option(NamedTuple):
    """An option of a command, for a script.

    Attributes:
        names: its names.
        values: what the value can be; None for no value, "files", "directories", or words with blanks in between.
        help: its help.
    """

    names: tuple[str, ...]
    values: str | None
    help: str


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands, "completion", _act, help="write a completion script for bash, zsh or fish", epilog=_EPILOG
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _act(chosen: argparse.Namespace) -> None:
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[chosen.shell]
    write(script(chosen.whole))


def _commands_of(parser: Parser) -> dict[str, tuple[Parser, str]]:
    """Return the parser and the help of each command."""
    action = next(action for action in parser._actions if isinstance(action, Commands))
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {name: (command, helps[name]) for name, command in action.choices.items()}


def _options_of(parser: Parser) -> Iterator[_Option]:
    for action in parser._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        text = (action.help or "").partition(" [PYWSAPP_")[0].replace("%%", "%")
        yield _Option(tuple(action.option_strings), _values_of(action), text)


def _values_of(action: argparse.Action) -> str | None:
    if action.nargs == 0:
        return None
    if action.metavar in _FILES:
        return "files"
    if action.metavar in _DIRECTORIES:
        return "directories"
    choices = action.choices or getattr(action.type, "choices", ())
    return " ".join(map(str, choices or ()))


def _words_of(parser: Parser) -> str:
    """Return the values of the first argument that has choices."""
    found = (action.choices for action in parser._actions if not action.option_strings and action.choices)
    return " ".join(next(found, ()))


# -- bash --------------------------------------------------------------------------------------------------------------


def _bash(parser: Parser) -> str:
    commands = _commands_of(parser)
    cases, values = [], []
    for name, (command, _) in commands.items():
        options = list(_options_of(command))
        words = " ".join(option for each in options for option in each.names)
        cases.append(f"        {name}) options='{words}'; words='{_words_of(command)}' ;;\n")
        patterns: dict[str, list[str]] = {}
        for option in options:
            if option.values is not None:
                patterns.setdefault(option.values, []).extend(f"{name}:{one}" for one in option.names)
        values += [f"        {'|'.join(names)}) {_bash_value(kind)}; return ;;\n" for kind, names in patterns.items()]
    top = " ".join(name for option in _options_of(parser) for name in option.names)
    return f"""\
# Completion of pywsapp for bash; made by `pywsapp completion bash`.
_pywsapp() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="" word options="" words=""
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in -*) ;; *) command="$word"; break ;; esac
    done
    if [[ -z $command ]]; then
        COMPREPLY=($(compgen -W '{" ".join(commands)} {top}' -- "$current"))
        return
    fi
    case "$command:$previous" in
{"".join(values)}    esac
    case "$command" in
{"".join(cases)}    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -F _pywsapp pywsapp
"""


def _bash_value(values: str) -> str:
    if values == "files":
        return 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$current"))'
    if values == "directories":
        return 'compopt -o filenames; COMPREPLY=($(compgen -d -- "$current"))'
    return f"COMPREPLY=($(compgen -W '{values}' -- \"$current\"))" if values else ":"


# -- zsh ---------------------------------------------------------------------------------------------------------------


def _zsh(parser: Parser) -> str:
    commands = _commands_of(parser)
    lines = "".join(f"        {_quoted(f'{name}:{text}')}\n" for name, (_, text) in commands.items())
    cases = "".join(_zsh_case(name, command) for name, (command, _) in commands.items())
    top = " ".join(_zsh_option(option) for option in _options_of(parser))
    return f"""\
#compdef pywsapp
# Completion of pywsapp for zsh; made by `pywsapp completion zsh`.
_pywsapp() {{
    local context state state_descr line
    typeset -A opt_args
    local -a commands
    commands=(
{lines}    )
    _arguments -C {top} '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe -t commands command commands ;;
        argument)
            case $words[1] in
{cases}            esac ;;
    esac
}}
if [ "$funcstack[1]" = "_pywsapp" ]; then _pywsapp "$@"; else compdef _pywsapp pywsapp; fi
"""


def _zsh_case(name: str, command: Parser) -> str:
    options = " ".join(_zsh_option(option) for option in _options_of(command))
    words = _words_of(command)
    arguments = f" '1:value:({words})'" if words else ""
    return f"                {name}) _arguments {options}{arguments} ;;\n"


def _zsh_option(option: _Option) -> str:
    text = option.help.replace("\\", "").replace("[", "(").replace("]", ")").replace(":", "\\:")
    action = {"files": "_files", "directories": "_files -/"}.get(option.values or "", f"({option.values})")
    value = "" if option.values is None else f":value:{action if option.values else ' '}"
    return " ".join(_quoted(f"*{name}[{text}]{value}") for name in option.names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish --------------------------------------------------------------------------------------------------------------


def _fish(parser: Parser) -> str:
    commands = _commands_of(parser)
    lines = ["# Completion of pywsapp for fish; made by `pywsapp completion fish`.\n", "complete -c pywsapp -f\n"]
    lines += [_fish_option("__fish_use_subcommand", option) for option in _options_of(parser)]
    for name, (command, text) in commands.items():
        lines.append(f"complete -c pywsapp -n __fish_use_subcommand -a {name} -d {_fish_quoted(text)}\n")
        condition = f"'__fish_seen_subcommand_from {name}'"
        lines += [_fish_option(condition, option) for option in _options_of(command)]
        if words := _words_of(command):
            lines.append(f"complete -c pywsapp -n {condition} -a {_fish_quoted(words)}\n")
    return "".join(lines)


def _fish_option(condition: str, option: _Option) -> str:
    names = " ".join(
        f"-l {name.removeprefix('--')}" if name.startswith("--") else f"-s {name.removeprefix('-')}"
        for name in option.names
    )
    action = {None: "", "files": " -r -F", "directories": " -x -a '(__fish_complete_directories)'", "": " -x"}
    value = action.get(option.values, f" -x -a {_fish_quoted(option.values or '')}")
    return f"complete -c pywsapp -n {condition} {names}{value} -d {_fish_quoted(option.help)}\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
