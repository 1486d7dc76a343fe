"""The Compose file: what it starts is what our commands take, and every name fits."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zdfs import arguments, cli

FOLDER = Path(__file__).parents[2] / "contrib" / "container"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PARSERS = {"zdfs-node": cli.node_parser, "zdfs": cli.zdfs_parser}
SCHEMA = arguments.schema_of(cli.node_parser(), cli.mount_parser())


def parsed(words: list[str]) -> Any:
    """As the command in a container parses it, with the file that it finds there."""
    configured = {"ZDFS_CONFIG": str(FOLDER / "cluster.toml")}
    return arguments.settled(PARSERS[words[0]](), words[1:], SCHEMA, configured)


def test_five_servers() -> None:
    assert list(COMPOSE["services"]) == ["meta", "data-0", "data-1", "data-2", "data-3"]
    assert set(COMPOSE["volumes"]) == set(COMPOSE["services"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service(name: str) -> None:
    service = COMPOSE["services"][name]
    chosen = parsed(service["command"])
    address = chosen.port if chosen.kind == "meta" else chosen.ports[chosen.index]
    assert address.partition(":")[0] == name == service["hostname"]  # it listens under its name
    assert chosen.stores == Path("/var/lib/zdfs")
    assert service["volumes"] == [
        "./cluster.toml:/etc/zdfs/cluster.toml:ro", f"{name}:/var/lib/zdfs",
    ]  # fmt: skip
    way, *check = service["healthcheck"]["test"]
    assert way == "CMD" and parsed(check).servers == [address]
    assert service["image"] == "zdfs" and service["cap_drop"] == ["ALL"]
    recipe = FOLDER / service["build"]["context"] / service["build"]["dockerfile"]
    assert recipe.resolve() == FOLDER / "Containerfile"


def test_the_recipe_takes_the_package() -> None:
    lines = (FOLDER / "Containerfile").read_text()
    assert "COPY zdfs_*.deb" in lines and "USER zdfs" in lines and "STOPSIGNAL SIGTERM" in lines
