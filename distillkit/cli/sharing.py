"""Commands between a folder and the Hub: card, push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.words import counted


@console.guarded
def card(artifact: opt.Folder, as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Make the card (README.md) of an artifact again; your own section of it survives."""
    from distillkit.artifact.read import read_artifact
    from distillkit.artifact.write import write_card

    content = read_artifact(artifact)
    _tell_of_lost_lines(artifact)
    path = write_card(artifact, content.config, content.recipe, content.results)
    if as_json:
        console.print_json({"card": str(path)})
    else:
        console.results.print(str(path), markup=False)


def _tell_of_lost_lines(folder: Path) -> None:
    """What the user wrote into the card where it is not kept."""
    from distillkit.artifact.read import read_artifact
    from distillkit.artifact.write import foreign_lines

    content = read_artifact(folder)
    if count := foreign_lines(folder, content.config, content.recipe, content.results):
        said = "is not as distillkit writes it and is" if count == 1 else "are not as distillkit writes them and are"
        console.errors.print(
            f"{counted(count, 'line')} of README.md outside your own section {said} made anew; the section and the "
            "head are kept",
            markup=False,
        )


@console.guarded
def push(
    artifact: opt.Folder,
    repo: Annotated[str, typer.Argument(help="Hub data set repository, org/name; created if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Create it as a private repository.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to push to; default main.")] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Tag of the commit, never moved; default the next free v<n>.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Commit message.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead; no tag.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the files; needs no network.")
    ] = False,
    token: opt.Token = None,
    replace: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Push among foreign files too; your section of the card wins over the Hub's."),
    ] = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Check ARTIFACT and publish it as REPO: one commit, a tag, and the line that loads exactly this."""
    from distillkit.sharing.push import PushOptions, plan_push
    from distillkit.sharing.push import push as publish

    options = PushOptions(True if private else None, revision, tag, create_pr, message, replace)
    if dry_run:
        files = plan_push(artifact, repo, options)
        visibility = "private" if private else "as your account's settings say (usually public)"
        console.print_files(f"Would be pushed to {repo}", files, as_json, repo=repo, visibility=visibility)
        if as_json:
            return
        console.results.print(f"visibility of a new repository: {visibility}", markup=False)
        where = "a pull request" if create_pr else f"branch {revision or 'main'}, tag {tag or 'the next free v<n>'}"
        console.results.print(f"to: {where}", markup=False)
        return
    _tell_of_lost_lines(artifact)
    report = publish(artifact, repo, options, token)
    if as_json:
        console.print_json(report.to_json())
        return
    what = "pushed" if report.changed else "all of it is there already; nothing pushed"
    lines = {"done": what, "url": report.url, "commit": report.commit}
    lines |= {"revision": report.revision} if report.revision else {}
    for name, text in {**lines, "load": report.load_line}.items():
        console.results.print(f"{name:<10} {text}", markup=False)


@console.guarded
def pull(
    address: Annotated[str, typer.Argument(help="org/name, org/name@revision, or the address of its page.")],
    out: Annotated[Path | None, opt.out("Folder; default the repository's name.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit; default main.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")] = False,
    token: opt.Token = None,
    replace: opt.Yes = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Fetch an artifact from the Hub into a folder, checked."""
    from distillkit.hub.address import parse_address
    from distillkit.hub.client import Cache
    from distillkit.sharing.pull import plan_pull
    from distillkit.sharing.pull import pull as fetch

    where = parse_address(address, revision)
    folder = out or Path(where.repo.split("/")[1])
    cache = Cache(token)
    if dry_run:
        commit, files = plan_pull(where, cache)
        console.print_files(f"Would be fetched into {folder}", files, as_json, repo=where.repo, commit=commit)
        return
    fetched = fetch(where, folder, cache, replace=replace)
    if as_json:
        console.print_json({"artifact": str(folder), "repo": where.repo, "commit": fetched.commit})
        return
    console.results.print(f"artifact: {folder}\ncommit:   {fetched.commit}", markup=False)
